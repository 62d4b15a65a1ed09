"""`coop-rl export`: a run's policy as a Hugging Face model, or as LoRA factors in PEFT's format.

    RUN --checkpoint--> merged:           DIR/model*.safetensors, config, tokenizer, README.md
                        adapter:          DIR/base/ (theta), DIR/adapter/ (w), README.md
                        adapter, a rank:  DIR/adapter_*, README.md

DIR appears when it is complete. Nothing is started, and nothing is sent before it is there.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from coop_rl.commands.stored_checkpoint import StoredCheckpoint, Which
from coop_rl.data.model_folder import local_folder
from coop_rl.errors import ConfigError, ModelError, RunDirectoryError, first_line
from coop_rl.observability.model_card import FACTORS, MERGED, PARTS, CardFacts, model_card

CONFIG_FILE = "coop-rl.json"
"""The run's resolved config, beside the weights."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The command line of `coop-rl export`."""

    run: Path
    """A run directory, or one of its step-* folders."""
    folder: Path
    """Where to; new or empty."""
    is_adapter: bool = False
    rank: int | None = None
    """Of the factors of the way from the base model; None: base and w are written."""
    checkpoint: Which = "newest"
    dtype: str | None = None
    """Type of the weights; None: what the run's engines served."""
    base: str | None = None
    """The base model, where the run's config names one that is elsewhere."""
    push: str | None = None
    """A repository of the hub to send the folder to."""


def export_run(request: ExportRequest, console: Console) -> None:
    """Write the folder, and send it to the hub where that is asked for.

    Raises:
        UserError: The input is wrong, or the hub refuses; what was written stays.
    """
    _check(request)
    based = [f"model.path={request.base}"] if request.base else []
    run = StoredCheckpoint.find(request.run, request.checkpoint, based, say=console.print)
    if run is None:
        raise RunDirectoryError(
            f"{request.run} is no run (no checkpoints/); give a run directory or a step-* folder"
        )
    try:
        local_folder(run.config.model.path)
    except ModelError as error:
        raise ModelError(f"{error}, here by --base") from None
    if request.push:
        _open_repository(request.push)
    _write(request, run, console)
    if request.push:
        console.print(f"sent to {_send(request.folder, request.push)}", soft_wrap=True)


def _check(request: ExportRequest) -> None:
    if request.rank is not None and not request.is_adapter:
        raise ConfigError(f"--rank {request.rank} is of an adapter; add --adapter")
    if request.dtype and request.is_adapter and request.rank is not None:
        raise ConfigError("factors are fp32: leave --dtype out with --adapter --rank")
    folder = request.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(f"{folder} is not empty; give a new or empty folder")


def _write(request: ExportRequest, run: StoredCheckpoint, console: Console) -> None:
    from coop_rl.learner.export import StoredPolicy, write_model, writing  # heavy: transformers
    from coop_rl.learner.export_adapter import write_base_and_adapter, write_low_rank

    config, dtype = run.config, request.dtype
    stored = StoredPolicy.open(config, run.checkpoint)
    name, kind, error = request.folder.resolve().name, MERGED, None
    with writing(request.folder.resolve()) as side:
        if not request.is_adapter:
            write_model(side, config, stored, stored.merged, dtype)
        elif request.rank is None:
            kind = PARTS
            write_base_and_adapter(side, config, stored, request.folder, dtype)
        else:
            kind = FACTORS
            found = write_low_rank(side, config, stored, request.rank)
            error = (
                f"rank {found.rank} leaves out {found.relative:.1%} of the way from the base model "
                f"(Frobenius norm); {found.outside:.1%} lies in weights without factors"
            )
            console.print(error, soft_wrap=True)
        (side / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        title, is_on_hub = request.push or name, request.push is not None
        facts = CardFacts(run.path, run.step, config, kind, title, is_on_hub, error)
        (side / "README.md").write_text(model_card(facts), encoding="utf-8")
    console.print(f"{run.name} as {kind} in {request.folder}", soft_wrap=True)


def _open_repository(name: str) -> None:
    """Make a private repository, if there is none: a missing token or right shows before the work.

    Raises:
        ModelError: The hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(name, private=True, exist_ok=True)
    except Exception as error:  # of its client or of the client's own HTTP library
        raise ModelError(
            f"the hub does not open {name}: {first_line(error)}; log in with `hf auth login` or "
            "set HF_TOKEN, and give --push OWNER/NAME"
        ) from None


def _send(folder: Path, name: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:  # as above
        raise ModelError(
            f"{folder} is written, but the hub does not take it: {first_line(error)}; "
            f"try again with `hf upload {name} {folder}`"
        ) from None
