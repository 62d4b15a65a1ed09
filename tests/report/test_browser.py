"""The page in headless Chromium, from a file: drawn, switched, searched, and silent."""

import gzip
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from coop_rl.report.content import content_of
from coop_rl.report.page import page
from coop_rl.report.stored_run import read_run
from tests.report.conftest import BROWSER
from tests.report.runs import lines, sample, write_run

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
COLOURED = sample(
    1,
    "1+é\U0001f600=2",
    given="so ",
    advantage=-0.5,
    token_lengths=[2, 0, 2, 2, 0],
    log_probs=[-0.01, -3.0, -0.02, -9.0, 0.0],
)
"""Given, then four tokens with a text, of which the second's stands with the third, and an end."""
LIKELY, TRAINED = ("", "", "p3", "p4"), ("shown", "down", "down", "down")
ACT = """
const until = (axis) => new Promise((done) => {
  const isDrawn = () => document.documentElement.dataset.drawn === axis;
  const look = () => isDrawn() ? done() : setTimeout(look, 10);
  look();
});
const tell = async () => {
  const told = {};
  const one = (selector) => document.querySelector(selector);
  const drawing = () => one(".plot svg").getAttribute("aria-label");
  await until("steps");
  told.figures = document.querySelectorAll("figure").length;
  told.drawings = document.querySelectorAll(".plot svg[role=img]").length;
  told.steps = drawing();
  one("input[name=axis][value=tokens]").click();
  await until("tokens");
  told.tokens = drawing();
  one("input[name=theme][value=dark]").click();
  told.dark = getComputedStyle(document.body).backgroundColor;
  one("input[name=theme][value=light]").click();
  told.light = getComputedStyle(document.body).backgroundColor;
  one(".plot").dispatchEvent(new KeyboardEvent("keydown", { key: "End" }));
  told.read = one("#said").textContent;
  const count = () => one("#samples [role=status]").textContent;
  told.all = count();
  const search = one("#samples input");
  search.value = "ONERROR";
  search.dispatchEvent(new Event("input"));
  told.searched = count();
  told.text = one("#samples .response").textContent;
  search.value = "";
  search.dispatchEvent(new Event("input"));
  const choose = (label, value) => {
    const labels = [...document.querySelectorAll("#samples label")];
    const select = labels.find((l) => l.textContent.startsWith(label)).querySelector("select");
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const pieces = () => [...document.querySelectorAll("article .token")];
  const tokens = () => pieces().map((t) => [t.textContent, t.className]);
  choose("Colour", "log-prob");
  told.log_probs = tokens();
  choose("Colour", "term");
  told.terms = tokens();
  told.title_of_token = one("article .token[title]").title;
  choose("Verdict", "gained");
  told.gained = count();
  told.images = document.images.length;
  told.title = document.title;
  told.overflow = document.documentElement.scrollWidth - innerWidth;
  return told;
};
"""
AUDIT = """
const violations = async () => {
  const { violations } = await axe.run(document);
  return violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => [v.id, v.nodes[0].html]);
};
const tell = async () => {
  const told = {};
  const choose = (select, value) => {
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const colour = [...document.querySelectorAll("#samples select")].at(-1);
  for (const [theme, by] of [["light", "log-prob"], ["dark", "term"]]) {
    document.querySelector(`input[name=theme][value=${theme}]`).click();
    choose(colour, by);
    await new Promise((done) => setTimeout(done, 200));
    told[theme] = await violations();
  }
  const { passes } = await axe.run(document, { runOnly: ["color-contrast"] });
  told.num_contrasts = passes[0].nodes.length;
  return told;
};
"""
STUDY = """
const tell = async () => {
  const texts = (selector) => [...document.querySelectorAll(selector)].map((n) => n.textContent);
  const loose = [...document.querySelector("#study").childNodes].filter((n) => n.nodeType === 3);
  return {
    heading: document.querySelector("h1").textContent,
    title: document.title,
    captions: texts("#study caption"),
    notes: texts("#study li"),
    stray: loose.map((n) => n.textContent).join(""),
  };
};
"""
WRITE = """
tell().then((told) => {
  const out = document.createElement("output");
  out.id = "told";
  out.textContent = JSON.stringify(told);
  document.body.append(out);
});
"""
AXE = Path(__file__).with_name("axe-4.14.1.min.js.gz")
"""axe-core, MPL-2.0, as npm has it."""


def seen(html: str, tmp_path: Path, width: int, act: str) -> tuple[dict[str, Any], str]:
    """Return what `tell` of `act` told of the page, and what the browser's console said."""
    file = tmp_path / "report.html"
    # Only scripts of the page's own digests run; this one is the test's.
    used = re.sub(r"script-src [^;]*", "script-src 'unsafe-inline'", html, count=1)
    file.write_text(used.replace("</body>", f"<script>{act}{WRITE}</script></body>"))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},900", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=4000", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<output id="told">(.*?)</output>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text), done.stderr


def test_a_report_is_used_in_a_browser(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", right={0: [False, True], 20: [True, True]})
    lines(run / "samples.jsonl", [sample(0, HOSTILE), COLOURED])
    told, console = seen(page(content_of([read_run(run)])), tmp_path, 500, ACT)
    assert told["drawings"] == told["figures"] > 5
    assert told["steps"].startswith("Training reward over steps. reward: first 0.5")
    assert told["tokens"].startswith("Training reward over tokens.")
    assert told["dark"] != told["light"]
    assert told["read"] == "reward 0.5, tokens 200"
    assert told["all"] == "6 of 6 samples"
    assert told["searched"] == "1 of 6 samples"
    assert told["text"] == HOSTILE
    pieces = ["so ", "1+", "é\U0001f600", "=2"]
    assert told["log_probs"] == [
        [p, f"token {kind}"] for p, kind in zip(pieces, LIKELY, strict=True)
    ]
    assert told["terms"] == [[p, f"token {kind}"] for p, kind in zip(pieces, TRAINED, strict=True)]
    assert told["gained"] == "2 of 6 samples"  # before and after
    assert (told["images"], told["title"]) == (0, "run · coop-rl")
    assert told["overflow"] <= 0
    assert "CONSOLE" not in console


def test_axe_finds_no_serious_violation(tmp_path: Path) -> None:
    """Every section, light and dark, with tokens coloured both ways."""
    run = write_run(tmp_path / "run", right={0: [False, True], 20: [True, True]})
    lines(run / "samples.jsonl", [sample(0, HOSTILE), COLOURED])
    axe = gzip.decompress(AXE.read_bytes()).decode()
    told, _ = seen(page(content_of([read_run(run)])), tmp_path, 1440, axe + AUDIT)
    assert (told["light"], told["dark"]) == ([], [])
    assert told["num_contrasts"] > 50


def test_the_page_of_a_study_shows_its_tables(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    tables = [
        {"title": name, "columns": ["arm", "n"], "rows": [["rl", "3"]], "notes": [HOSTILE]}
        for name in ("In short", "Arms")
    ]
    content = content_of([run, run]) | {"title": "Does it help?", "tables": tables}
    told, _ = seen(page(content), tmp_path, 1440, STUDY)
    assert (told["heading"], told["title"]) == ("Does it help?", "Does it help? · coop-rl")
    assert told["captions"] == ["In short", "Arms"]
    assert told["notes"] == [HOSTILE, HOSTILE]
    assert told["stray"] == ""
