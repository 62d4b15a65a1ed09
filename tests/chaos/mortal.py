"""`coop-rl` whose actors end in a chosen call: python -m tests.chaos.mortal DEATHS train ...

A signal from outside cannot be timed to fall between two calls.
"""

import json
import sys
from pathlib import Path
from typing import Any

from coop_rl.cli import main
from coop_rl.distributed import build
from coop_rl.distributed.actors import MetaControllerActor
from tests.main_job.mortal_actors import mortal_rollouts


def mortal_meta(num_pushes: list[int]) -> type:
    """Return meta-controllers each of whose lives ends when it is to push w for the n-th time."""

    class MortalMeta(MetaControllerActor):
        def __init__(self, config: Any, log: Path) -> None:
            super().__init__(config, log)
            lives = log.with_suffix(".lives")
            life = len(lives.read_text().splitlines()) if lives.exists() else 0
            lives.write_text("life\n" * (life + 1))
            self._left = [*num_pushes, *[0] * (life + 1)][life]

        def push_w(self):
            import os
            import signal

            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().push_w()

    return MortalMeta


if __name__ == "__main__":
    deaths = json.loads(sys.argv.pop(1))
    pushes = [number for _, number in deaths.pop("meta-controller", [])]
    ours: Any = build
    ours.MetaControllerActor = mortal_meta(pushes)
    ours.RolloutActor = mortal_rollouts(deaths)
    main()
