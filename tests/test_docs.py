"""The docs say what is there: types on docs/data-flow.md, commands, paths and links everywhere."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from ray.scripts.scripts import cli as ray

from coop_rl import types
from coop_rl.cli import app
from coop_rl.commands.options import spread_option
from coop_rl.config import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/data-flow.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COOP_RL = typer.main.get_command(app)
SHOWN = (
    types.Prompt,
    types.Rollout,
    types.Reward,
    types.TokenSample,
    types.Demonstration,
    types.PackedBatch,
    types.SourceBatch,
    types.MicroBatch,
    types.StepResult,
    types.AdapterGradients,
    types.CooperativeGain,
    types.GuidanceUpdate,
    types.PolicyVersion,
)


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_data_flow_page_has_the_fields_of(shown) -> None:
    sections = re.findall(rf"## {shown.__name__}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)
    assert sections, "run make docs"
    for section in sections:
        found = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert found == [field.name for field in dataclasses.fields(shown)], "run make docs"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the commands of a page's bash blocks."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield [word for word in words if word != "&"]


def parse(command: Any, arguments: list[str]) -> dict[str, Any]:
    """Parse as click, Ray's or typer's own, would; run nothing; return the parameters."""
    context = command.make_context(command.name, list(arguments))
    while hasattr(command, "resolve_command"):
        words = [*context._protected_args, *context.args]
        _, command, rest = command.resolve_command(context, words)
        context = command.make_context(command.name, rest, parent=context)
    params: dict[str, Any] = context.params
    return params


def check_ours(arguments: list[str]) -> None:
    """Options exist, the config does, and it takes the overrides."""
    given = parse(COOP_RL, spread_option(arguments, "--benchmark"))
    config = given.get("config")
    # Files in mine/ are written by the quickstart itself (tests/test_site.py).
    if config is not None and str(config) != "CONFIG" and config.parts[0] != "mine":
        load_config(ROOT / config, given.get("overrides") or ())


def check(command: list[str]) -> str:
    """Check one command; return the program it starts."""
    program, *arguments = command
    program = program.rpartition("/")[2]
    if program == "coop-rl":
        check_ours(arguments)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(f"\n{a}:" in makefile for a in arguments if "=" not in a), command
    elif program == "ray":
        parse(ray, arguments)
        if "--" in arguments:
            check(arguments[arguments.index("--") + 1 :])
    return program


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_a_page_are_ones_that_exist(page: Path) -> None:
    programs = [check(command) for command in commands(page)]
    if page.name == "operations.md":
        assert {"coop-rl", "ray", "make", "kubectl"} <= set(programs)
        assert programs.count("coop-rl") > 8


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_a_page_fit_an_editor(page: Path) -> None:
    """Rows of tables and shown output cannot be wrapped."""
    text = re.sub(r"```text\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    too_long = [line for line in text.splitlines() if len(line) > 120 and line[:1] != "|"]
    assert not too_long, f"{page.name}: more than 120 characters"


@pytest.mark.parametrize(
    "command",
    [
        ["coop-rl", "plan", "configs/local/demo.yaml", "--devices", "L4"],
        ["coop-rl", "plans"],
        ["ray", "job", "submit", "--adress", "x", "--", "y"],
    ],
)
def test_a_misspelt_command_is_noticed(command: list[str]) -> None:
    with pytest.raises(Exception, match="No such"):
        check(command)


def anchors(page: Path) -> set[str]:
    """Return the anchors GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target
    roots = "bench|cluster|configs|coop_rl|docker|docs|tests"
    for path in re.findall(rf"(?<![\w/.-])((?:{roots})/[\w./-]+\.\w+)", text):
        assert (ROOT / path).exists(), path
