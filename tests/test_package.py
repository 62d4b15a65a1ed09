"""The wheel holds what an installed `coop-rl` needs, and the demo's config works from any place."""

import re
import subprocess
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import trove_classifiers
import yaml
from hatchling.builders.wheel import WheelBuilder
from typer.testing import CliRunner

import coop_rl
from coop_rl.cli import app
from coop_rl.commands import demo
from coop_rl.commands.demo import demo_file
from coop_rl.config import load_config

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))
    return zipfile.ZipFile(path)


def test_the_wheel_holds_code_types_and_demo(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    code = {f"coop_rl/{p.relative_to(ROOT / 'coop_rl')}" for p in ROOT.glob("coop_rl/**/*.py")}
    assert code | {"coop_rl/py.typed", "coop_rl/planning/known_models.json"} <= names
    config = yaml.safe_load(wheel.read("coop_rl/configs/local/demo.yaml"))
    for path in (
        *(config[section]["path"] for section in ("prompts", "demonstrations")),
        config["evaluation"]["data"]["path"],
        f"{config['model']['path']}/model.safetensors",
        f"{config['model']['path']}/tokenizer.json",
    ):
        assert f"coop_rl/configs/local/{path}" in names
    others = {name for name in names if not re.match(r"coop_rl(/|-[\d.]+\.dist-info/)", name)}
    assert not others


def test_its_metadata_is_what_an_index_takes(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    about = Parser().parsestr(wheel.read(name).decode())
    assert about["Version"] == coop_rl.__version__
    assert set(about.get_all("Classifier", [])) <= trove_classifiers.classifiers
    assert f"version: {about['Version']}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {about['Version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_demo_s_config_works_from_any_place(
    wheel: zipfile.ZipFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkout, and from where a wheel puts it."""
    wheel.extractall(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    assert demo_file() == ROOT / "configs/local/demo.yaml"
    monkeypatch.setattr(demo, "PACKAGE", tmp_path / "site/coop_rl")
    config = load_config(demo_file(), ["run.num_steps=3"])
    assert Path(config.model.path) == tmp_path / "site/coop_rl/configs/local/demo/model"
    assert config.evaluation.data
    sources = (config.prompts, config.demonstrations, config.evaluation.data)
    assert all(Path(str(source.path)).is_relative_to(tmp_path / "site") for source in sources)
    assert all(Path(str(source.path)).is_file() for source in sources)


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["export", "-h"], ["demo", "-h"]])
def test_usual_options_are_there(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert ("coop-rl 0." if arguments == ["--version"] else "Usage") in done.output


def stub(path: Path, version: str) -> None:
    """Write an interpreter that answers as one of this version would."""
    answer = "exit 0" if version in ("3.11", "3.12") else "exit 1"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("there", "given", "chosen"),
    [
        ({"python3.11": "3.11", "python3.12": "3.12"}, "", "python3.11"),
        ({"python3.12": "3.12", "python3": "3.13"}, "", "python3.12"),
        ({"python3.11": "broken", "python3": "3.12"}, "", "python3"),
        ({"python3.11": "3.11", "mine": "3.12"}, "mine", "mine"),
        ({"python3.11": "3.11", "system/python3.12": "3.12"}, "", "system/python3.12"),
        ({"python3.12": "3.12", "system/python3.12": "broken"}, "", "python3.12"),
        ({"python3": "3.13"}, "", None),
        ({"python3.11": "3.11"}, "gone", None),
    ],
)
def test_set_up_takes_the_python_that_is_there(
    tmp_path: Path, there: dict[str, str], given: str, chosen: str | None
) -> None:
    system = tmp_path / "system"
    system.mkdir()
    for name, version in there.items():
        stub(tmp_path / name, version)
    done = subprocess.run(
        ["/bin/bash", ROOT / ".ci/python"],
        env={"PATH": str(tmp_path), "PYTHON": given, "SYSTEM_PYTHONS": str(system)},
        capture_output=True,
        text=True,
        check=False,
    )
    if chosen:
        assert done.stdout.removeprefix(f"{tmp_path}/") == f"{chosen}\n"
    else:
        assert done.returncode == 2
        assert "needs Python 3.11 or 3.12" in done.stderr
