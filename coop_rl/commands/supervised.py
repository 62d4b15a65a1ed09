"""`coop-rl train` and `coop-rl demo`: a training run under a supervisor."""

from collections.abc import Sequence
from pathlib import Path

from coop_rl.commands.allowed import Allowed
from coop_rl.commands.supervise import Restart, supervise
from coop_rl.config import RunConfig


def train_supervised(
    config: RunConfig,
    run_dir: Path | None,
    resume: str,
    allowed: Sequence[Allowed],
    *,
    is_quiet: bool,
    is_json: bool,
) -> None:
    """Do as `commands.train.run_training` under a supervisor; raises as `supervise` does."""

    def train_once(resume: str, restart: Restart | None) -> None:
        from coop_rl.commands.train import run_training  # heavy: ray, transformers

        run_training(
            config,
            run_dir,
            resume,
            allowed,
            is_quiet=is_quiet,
            is_json=is_json,
            restart=restart,
        )

    supervise(config, run_dir, resume, train_once)
