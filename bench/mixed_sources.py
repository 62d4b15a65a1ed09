"""Does guidance pay where half of the demonstrations are harmful? Arms over five paired seeds.

python bench/mixed_sources.py RUNS_FOLDER        (or: make study-sources)

configs/local/mixed-sources.yaml: two sources of demonstrations, one of which loses every carry.
Runs what is missing in RUNS_FOLDER (about 4 minutes a run on 2 cores), then prints Markdown: mean
and standard deviation over seeds, and `learned` less each other arm on the same seeds with a 95 %
t interval.

| arm | guidance |
|---|---|
| learned | weights of the sources, by the look-ahead gain; no shadow; the default here |
| with w | the same beside w and its shadow |
| fixed | none: equal weights; w stands still |
| placebo | as `learned`, but the products are dealt at random |
"""

import sys
from pathlib import Path

from paired import Study

LEARNED = ("meta.guidance=[demonstrations]",)
STUDY = Study(
    config="configs/local/mixed-sources.yaml",
    arms={
        "learned": LEARNED,
        "with w": ("meta.guidance=[adapter,demonstrations]",),
        "fixed": ("meta.guidance=[adapter]", "meta.w_objective=frozen"),
        "placebo": (*LEARNED, "meta.lookahead=placebo"),
    },
    diagnostics=("guidance/weight/good", "guidance/weight/careless", "guidance/mix"),
)

if __name__ == "__main__":
    STUDY.main(Path(sys.argv[1]))
