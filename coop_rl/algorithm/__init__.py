"""The paper: the loop and the mathematics, pure. Imports no ray, vllm, deepspeed or transformers."""
