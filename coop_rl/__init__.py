"""coop-rl: cooperative SFT and RL (BRIDGE, arXiv 2509.06948) on Ray, vLLM and DeepSpeed."""

__version__ = "0.1.0"
