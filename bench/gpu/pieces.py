"""What the pieces of `make gpu` share: a model of random weights, their results."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/local/demo.yaml"
TOKENIZER = ROOT / "configs/local/demo/model"
LIMIT_S = 300
"""A piece ends by itself after so long; what it has measured by then is kept."""
SIZES = {
    "tiny": (512, 128, 256, 2, 4, 2),
    "0.5B": (151_936, 896, 4864, 24, 14, 2),
    "1.5B": (151_936, 1536, 8960, 28, 12, 2),
}
"""Vocabulary, hidden, intermediate, layers, heads, key heads: those of Qwen2.5."""
Figures = Mapping[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a piece is started with."""

    out: Path
    is_tiny: bool
    case: str | None

    @property
    def device(self) -> str:
        """Where it runs."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def device_name(self) -> str:
        """The card, or cpu."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def options(about: str | None) -> Options:
    """Read the command line; without a device only `--tiny` is allowed."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results.d/gpu")
    parser.add_argument("--tiny", action="store_true", help="a small model, on any machine")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.tiny and not torch.cuda.is_available():
        parser.exit(2, f"torch {torch.__version__} sees no CUDA device; --tiny runs without one\n")
    given.out.mkdir(parents=True, exist_ok=True)
    return Options(given.out.resolve(), given.tiny, given.case)


def random_model(folder: Path, size: str) -> str:
    """Write a model of random weights, bf16, with the demo's tokenizer; return its folder."""
    path = folder / f"model-{size}"
    if not (path / "tokenizer.json").exists():
        vocab, hidden, intermediate, layers, heads, keys = SIZES[size]
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=keys,
            tie_word_embeddings=True,
            max_position_embeddings=8192,
        )
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
        for file in TOKENIZER.iterdir():
            if file.name not in ("config.json", "model.safetensors"):
                shutil.copy(file, path)
    return str(path)


def in_turn(module: str, given: Options, cases: Sequence[str]) -> None:
    """Run each case in a process of its own until the piece's time is over; keep every result."""
    ends, found = time.monotonic() + LIMIT_S, dict[str, Figures]()
    name = module.rpartition(".")[2]
    for case in cases:
        left = ends - time.monotonic()
        if left < 1:
            found[case] = {"failed": f"no time left of {LIMIT_S} s"}
            continue
        command = [sys.executable, "-m", module, "--out", str(given.out), "--case", case]
        found[case] = run_limited(command + ["--tiny"] * given.is_tiny, left)
        result = given.out / f"{name}.json"
        result.write_text(json.dumps({"device": given.device_name, "cases": found}, indent=1))
        sys.stdout.write(f"{name} {case}: {found[case]}\n")
        sys.stdout.flush()


def run_limited(command: Sequence[str], limit_s: float) -> Figures:
    """Return the JSON object on the last line of a command's output, or why there is none."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return {"failed": f"not done within {limit_s:.0f} s"}
    if process.returncode:
        return {"failed": (err.strip().splitlines() or ["it said nothing"])[-1][:300]}
    figures: Figures = json.loads(out.strip().splitlines()[-1])
    return figures


def rows(found: Mapping[str, Mapping[str, Figures]]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (piece, case, figure, value) of what the pieces wrote."""
    for piece, cases in found.items():
        for case, figures in cases.items():
            for name, value in figures.items():
                shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
                yield piece, case, name, shown
