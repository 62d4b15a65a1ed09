"""Does the shadow matter? All five `meta.w_objective` on the demo, five seeds each, as one table.

python bench/w_objective.py RUNS_FOLDER        (or: make study)

Runs what is missing in RUNS_FOLDER (about 4 minutes a run on 2 cores), then prints Markdown: mean
and standard deviation over seeds, and `cooperative` less each control on the same seeds with a 95 %
t interval.
"""

import sys
from pathlib import Path

from paired import Study

OBJECTIVES = ("cooperative", "mixture", "sft", "frozen", "random")
STUDY = Study(
    config="configs/local/demo.yaml",
    arms={name: ("meta.guidance=[adapter]", f"meta.w_objective={name}") for name in OBJECTIVES},
    diagnostics=(
        "guidance/bracket_norm",
        "guidance/grad_sft_norm",
        "guidance/bracket_cosine",
        "guidance/update_norm",
        "gain/ess",
    ),
)

if __name__ == "__main__":
    STUDY.main(Path(sys.argv[1]))
