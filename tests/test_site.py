"""The pages of the site hold what the code holds; `make site` builds it (marked prove)."""

import ast
import json
import re
import runpy
import subprocess
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.config import RunConfig, derive_sizes, load_config
from docs import draw_diagrams, learned_sources, walk, worked_example
from tests.report.runs import write_run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MANY = 12
"""Characters that a piece of a quoted line must have to be looked for."""


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, which names functions."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from leaves(entry)


def cells(text: str, column: int) -> Iterator[str]:
    """Yield what stands in a column of every table of a page."""
    for row in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        parts = row.split("|")
        if not set(row) <= set("|-") and column < len(parts):
            yield parts[column].strip()


def test_the_menu_names_every_page() -> None:
    nav = list(leaves(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]))
    taken_in = {"cluster.md", "contributing.md", "changelog.md"}
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert set(nav) == pages | taken_in


def test_every_diagram_has_its_drawing() -> None:
    wanted = {name for name, _ in draw_diagrams.sources()}
    assert {path.name for path in draw_diagrams.FOLDER.iterdir()} == wanted, draw_diagrams.__doc__


def test_the_worked_example_is_what_the_code_computes() -> None:
    text = page("how-it-works.md")
    assert worked_example.renewed(text) == text, "run `make docs`"
    gain = dict(zip(cells(text, 0), cells(text, 1), strict=True))
    assert float(gain["**cooperative gain** G, from the four responses"]) > 0


def test_the_picture_is_of_the_published_runs() -> None:
    num_seeds, arms = learned_sources.read(learned_sources.STUDY)
    assert learned_sources.draw(num_seeds, arms) == page("learned-sources.svg"), "run `make docs`"
    for name in ("README.md", "docs/recipes.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for arm in ("learned", "fixed"):
            assert f"{arms[arm].pass_at_1:.3f}" in text, (name, arm)


@cache
def texts_of_the_code() -> str:
    """Return every text in the code, with … where something is put in."""

    def shown(node: ast.AST) -> str:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.JoinedStr):
            return "".join(shown(part) or "…" for part in node.values)
        if isinstance(node, ast.BinOp):
            return (shown(node.left) or "…") + (shown(node.right) or "…")
        return ""

    trees = [ast.parse(path.read_text()) for path in (ROOT / "coop_rl").rglob("*.py")]
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    return "\n".join(
        shown(node) for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)
    )


def quoted_lines() -> list[str]:
    """Return the lines that the troubleshooting page says are printed."""
    found = [
        line
        for section in page("troubleshooting.md").split("\n## ")[1:]
        for line in cells(section, 0)
        if line.startswith("`") and " " in line
    ]
    assert len(found) > 25
    return found


@pytest.mark.parametrize("line", quoted_lines())
def test_a_quoted_line_is_printed_by_the_code(line: str) -> None:
    if "near 1" in line:  # a metric's value
        return
    pieces = [piece.strip() for piece in re.split("…", line.strip("`")) if len(piece) >= MANY]
    assert pieces, line
    for piece in pieces:
        assert piece in texts_of_the_code(), piece


@cache
def fields() -> set[str]:
    """Return every `section.field` of the config, of all variants."""
    schema = RunConfig.model_json_schema()
    names: set[str] = set()

    def walk_through(prefix: str, node: Any) -> None:
        for choice in (
            node,
            *(c for key in ("anyOf", "oneOf", "allOf") for c in node.get(key, ())),
        ):
            if "$ref" in choice:
                section = schema["$defs"][choice["$ref"].rsplit("/", 1)[1]]
                for name, field in section.get("properties", {}).items():
                    names.add(f"{prefix}{name}")
                    walk_through(f"{prefix}{name}.", field)

    for name, field in schema["properties"].items():
        walk_through(f"{name}.", field)
        for choice in field.get("oneOf", ()):
            walk_through(f"{name}.", choice)
    return names


def test_our_keys_of_the_tables_are_fields_of_the_config() -> None:
    ours = " ".join(cells(page("coming-from.md"), 0))
    named = [name for name in re.findall(r"`([a-z]+\.[a-z_.]+)", ours) if "*" not in name]
    assert len(named) >= 50
    unknown = {name for name in named if name.rstrip(".") not in fields()}
    assert unknown <= {"demonstrations", "reward.parts."}, unknown


def test_figures_of_recipes_are_those_of_plan() -> None:
    rows = [row for row in page("recipes.md").splitlines() if " h for " in row]
    assert len(rows) == 8
    for row in rows:
        config, _, devices, step, run, peak = (cell.strip() for cell in row.split("|")[1:-1])
        name = config.strip("`").removeprefix("configs/").removesuffix(".yaml").replace("/", "-")
        plan = (ROOT / f"tests/planning/golden/{name}.txt").read_text()
        hours, steps = re.findall(r"[\d.]+", run)
        assert re.search(rf"seconds a step, lag \d +│ +{step.split()[0]} ", plan), row
        assert re.search(rf"hours for {steps} steps +│ +{hours} ", plan), row
        assert not peak.endswith("GiB") or f"learner rank: {peak.split()[0]} of" in plan, row
        assert f"{devices.split()[0]} GPU │" in plan, row


def test_the_quickstart_s_files_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk itself is `prove`; this is its part that starts nothing."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for block in walk.blocks(DOCS / "quickstart.md"):
        if block.title:
            walk.write(block, tmp_path)
    runpy.run_path(str(tmp_path / "mine/make_data.py"), run_name="__main__")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["check", "mine/run.yaml"])
    assert done.exit_code == 0, done.output
    assert "512 rows" in done.output


@pytest.mark.parametrize("name", ["howto/add-a-method.md", "rewards.md"])
def test_python_blocks_of_a_page_run(name: str) -> None:
    """In their order, in one namespace, as a reader types them."""
    space: dict[str, Any] = {"__name__": "page"}
    found = [block for block in walk.blocks(DOCS / name) if block.language == "python"]
    assert len(found) == 2
    for block in found:
        exec(compile(block.text, name, "exec"), space)
    if "Fade" in space:
        assert space["FadeMethod"](mu=0.5).mu == 0.5
        assert issubclass(space["Fade"], object)


def test_the_config_for_one_node_asks_for_what_the_page_says(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", page("howto/one-node.md"), re.DOTALL)
    assert found
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    file = tmp_path / "mine.yaml"
    file.write_text(textwrap.dedent(found[1]))
    sizes = derive_sizes(load_config(file))
    assert (sizes.total_gpus, sizes.gpus["learner shadow"]) == (3, 0)
    with_shadow = derive_sizes(load_config(file, ["meta.w_objective=cooperative"]))
    assert (with_shadow.total_gpus, with_shadow.gpus["learner shadow"]) == (5, 2)


def test_the_notebook_runs_on_stored_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    for name, right in (("mine-rl", [True, False] * 8), ("mine-bridge", [True] * 12 + [False] * 4)):
        kind = [f"method.kind={name.removeprefix('mine-')}"]
        write_run(tmp_path / "runs" / name, right={0: [False] * 16, 20: right}, overrides=kind)
    notebook = json.loads((DOCS / "notebooks/a-run-as-tables.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    space: dict[str, Any] = {}
    for cell in cells:
        exec(compile(cell, "notebook", "exec"), space)
    found = space["differences"].set_index(["figure", "axis"])["value"]
    assert found["sums pass@1", "steps"] == pytest.approx(0.25)


def test_the_workflow_does_what_ci_does() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]
    done = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert [command for command in done if command] == [".ci/run", "make site"]


@pytest.mark.prove
def test_the_site_builds_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    """Strict: a broken link, anchor or docstring is an error."""
    subprocess.run(["make", "site", f"SITE={tmp_path / 'site'}"], cwd=ROOT, check=True)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 35
    for file in pages:
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(\S+)", text)
        assert loaded
        assert not [url for url in loaded if re.match(r"(https?:)?//", url)], file
        assert "class=mermaid" not in text
        assert 'class="mermaid"' not in text


@pytest.mark.prove
@pytest.mark.timeout(2400)
def test_the_quickstart_can_be_walked(tmp_path: Path) -> None:
    subprocess.run(
        ["python", "docs/walk.py", str(tmp_path / "clone"), "--installed"], cwd=ROOT, check=True
    )
