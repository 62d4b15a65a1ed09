"""The report of a run of 500 steps: `python bench/report_page.py`.

Bytes of the one file, and when headless Chromium has drawn its first plot (`performance.now()`,
milliseconds since navigation began; median of five), with 500 samples of 1,000 characters and
eleven evaluations. Without Chromium only the bytes are measured. Writes
bench/results.d/report_page.json.
"""

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Measure, save

sys.path.insert(0, str(Path(__file__).parents[1]))

from coop_rl.report.content import content_of
from coop_rl.report.page import page
from coop_rl.report.stored_run import read_run
from tests.report.conftest import BROWSER
from tests.report.runs import lines, sample, write_run

NUM_STEPS, REPEATS, CHARACTERS = 500, 5, 1_000
BYTES, FIRST_PLOT_MS = 5_000_000, 2_000
"""What a report may take."""
WATCH = """
const watch = new MutationObserver(() => {
  if (!document.querySelector(".plot svg")) return;
  watch.disconnect();
  document.title = `drawn ${performance.now()}`;
});
watch.observe(document, { subtree: true, childList: true });
"""


def main() -> None:
    """Measure and save."""
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(
            Path(folder) / "run",
            num_steps=NUM_STEPS,
            right={step: [True, False] * 128 for step in range(0, NUM_STEPS + 1, 50)},
        )
        lines(run / "samples.jsonl", [sample(s, "1+1=2 " * (CHARACTERS // 6)) for s in range(500)])
        html = page(content_of([read_run(run)]))
        measures = [_below("report bytes", [len(html.encode())], BYTES)]
        if BROWSER:
            file = Path(folder) / "report.html"
            # Only scripts of the page's own digests run; this one is the measurement's.
            html = re.sub(r"script-src [^;]*", "script-src 'unsafe-inline'", html, count=1)
            file.write_text(html.replace("<head>", f"<head><script>{WATCH}</script>", 1))
            times = [_drawn(file, Path(folder) / f"profile-{n}") for n in range(REPEATS)]
            measures.append(_below("report's first plot, ms", times, FIRST_PLOT_MS))
        else:
            print("no chromium here: seconds to the first plot not measured")
    save("report_page", measures)
    for measure in measures:
        print(measure)


def _drawn(file: Path, profile: Path) -> float:
    """Return when the first plot stood there."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--timeout=10000", f"--user-data-dir={profile}", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>drawn ([\d.]+)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    return float(found[1])


def _below(name: str, values: list[float], limit: float) -> Measure:
    middle = statistics.median(values)
    return Measure(
        name,
        middle / limit,
        min(values) / limit,
        max(values) / limit,
        floor=1.0,
        higher_is_better=False,
        detail={"ours": middle, "reference": limit},
    )


if __name__ == "__main__":
    main()
