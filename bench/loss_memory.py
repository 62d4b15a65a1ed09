"""Peak memory and time of the loss: our head against whole logits, forward and backward.

    python bench/loss_memory.py [TOKENS VOCABULARY HIDDEN]

Memory is the process's highest resident set above what it held before the forward pass (weights and
hidden states; their gradients count), each way in a process of its own. Needs about 20 GB for whole
logits at the default 8,192 tokens x 151,936 words, fp32. Writes bench/results.d/loss_memory.json.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from report import Detail, Measure, save

from coop_rl.models.head import KEPT_CHUNKS, ChunkedHead, chunk_for

MIB = 2**20
DEFAULT = (8192, 151_936, 896)
NUM_THREADS = 2


def resident(key: str) -> int:
    """Return a figure of /proc/self/status, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def run(way: str, num_tokens: int, vocabulary: int, hidden_size: int) -> dict[str, float]:
    """Take the loss once, in this process."""
    torch.set_num_threads(NUM_THREADS)
    output = torch.nn.Linear(hidden_size, vocabulary, bias=False)
    hidden_TH = torch.randn(num_tokens, hidden_size, requires_grad=True)
    target_T = torch.randint(0, vocabulary, (num_tokens,))
    before, began = resident("VmRSS"), time.perf_counter()
    if way == "whole":
        log_p_TV = output(hidden_TH).log_softmax(-1)
        log_prob_T = log_p_TV.gather(-1, target_T[:, None])[:, 0]
    else:
        chunk = chunk_for(2**30, vocabulary)  # learner.logits_gib: 1
        head = ChunkedHead(output, 1.0, chunk, KEPT_CHUNKS, has_entropy_gradient=False)
        log_prob_T = head(hidden_TH, target_T).log_prob_T
    log_prob_T.sum().backward()
    return {"bytes": resident("VmHWM") - before, "seconds": time.perf_counter() - began}


def main() -> None:
    """Compare both ways."""
    if len(sys.argv) > 1 and sys.argv[1] in ("whole", "chunked"):
        sys.stdout.write(json.dumps(run(sys.argv[1], *(int(a) for a in sys.argv[2:5]))))
        return
    sizes = [str(s) for s in (sys.argv[1:4] or DEFAULT)]
    found: dict[str, dict[str, float]] = {}
    for way in ("chunked", "whole"):
        command = [sys.executable, __file__, way, *sizes]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[way] = json.loads(done.stdout)
        sys.stdout.write(
            f"{way:8} {found[way]['bytes'] / MIB:8,.0f} MiB, {found[way]['seconds']:6.1f} s\n"
        )
    ours, whole = found["chunked"], found["whole"]
    detail: Detail = {
        "ours": ours["bytes"] / MIB,
        "reference": whole["bytes"] / MIB,
        "unit": "MiB",
        "seconds": ours["seconds"],
        "reference_seconds": whole["seconds"],
    }
    ratio = ours["bytes"] / whole["bytes"]
    name = "peak memory of the loss over whole logits"
    # One run each: it is the same to a few MiB every time.
    measured = Measure(name, ratio, ratio, ratio, 0.2, higher_is_better=False, detail=detail)
    sys.stdout.write(f"{measured}\n")
    save("loss_memory", [measured])


if __name__ == "__main__":
    main()
