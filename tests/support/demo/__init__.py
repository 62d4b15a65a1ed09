"""The demo: a small model that forgets carries, and sums on which SFT and RL can both teach it.

Three steps, each reproducible from a seed; none is part of a training run:

    task.py        problems, worked solutions, the split into disjoint sets, the verifier
    model.py       the character tokenizer and the Qwen3 configuration
    train_base.py  trains the base weights    -> configs/local/demo/model/
    write_data.py  writes the three data sets -> configs/local/demo/*.jsonl
"""
