"""The paper: the loop and the mathematics; imports no ray, vllm, deepspeed, transformers."""
