"""Is a learned lambda as good as a fixed one where all demonstrations are good?

python bench/learned_mix.py RUNS_FOLDER        (or: make study-mix)

The demo over three paired seeds, as in `mixed_sources.py`.

| arm | guidance |
|---|---|
| fixed | w by the bracket; lambda = .5: what `meta.guidance` is where there are no sources |
| learned | lambda too, by the look-ahead gain |
"""

import sys
from pathlib import Path

from paired import Study

STUDY = Study(
    config="configs/local/demo.yaml",
    arms={
        "learned": ("meta.guidance=[adapter,mix]",),
        "fixed": ("meta.guidance=[adapter]",),
    },
    diagnostics=("guidance/mix", "gain/pooled"),
    seeds=range(3),
)

if __name__ == "__main__":
    STUDY.main(Path(sys.argv[1]))
