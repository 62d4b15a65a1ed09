"""Where the paths of a config lead, and from where."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from coop_rl.config import RunConfig, load_config
from coop_rl.config.paths import PATHS, files_matching, settle_paths, shown
from coop_rl.observability.run_directory import RunDirectory
from tests.config.test_load import CONFIGS, MINIMAL


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in a folder of its own, called from another one that is empty."""
    folder, here = tmp_path / "configs", tmp_path / "here"
    for made in (folder / "data", folder / "model", here):
        made.mkdir(parents=True)
    (folder / "data/p.jsonl").touch()
    monkeypatch.chdir(here)
    path = folder / "run.yaml"
    path.write_text(
        yaml.safe_dump(MINIMAL | {"prompts": {"path": "data/p.jsonl"}, "model": {"path": "model"}})
    )
    return path


def test_paths_are_from_the_configs_folder(beside: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(beside, ["demonstrations.path=d.jsonl"])
    assert config.prompts.path == str(beside.parent / "data/p.jsonl")
    assert config.model.path == str(beside.parent / "model")
    # What is nowhere is meant to be there, too; what --set gives is from where it is typed.
    assert config.evaluation.data is not None
    assert config.evaluation.data.path == str(beside.parent / "h.jsonl")
    assert config.demonstrations.path == str(Path.cwd() / "d.jsonl")
    assert config.run.dir == "runs"
    assert not caplog.records


def test_what_only_the_working_directory_has_is_taken_from_there_and_one_line_says_so(
    beside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("d.jsonl", "h.jsonl"):
        Path(name).touch()
    config = load_config(beside)
    assert config.demonstrations.path == str(Path.cwd() / "d.jsonl")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = (
        f"demonstrations.path, evaluation.data.path of {beside}: taken from the working directory"
    )
    assert said in record.getMessage()


def test_each_file_of_extends_names_paths_from_its_own_folder(beside: Path) -> None:
    overlay = beside.parent.parent / "overlay.yaml"
    overlay.write_text("extends: configs/run.yaml\ndemonstrations: {path: d.jsonl}\n")
    config = load_config(overlay)
    assert config.prompts.path == str(beside.parent / "data/p.jsonl")
    assert config.demonstrations.path == str(overlay.parent / "d.jsonl")


def test_every_path_of_the_config_is_known() -> None:
    """A field that holds a path is in the list, or in the list of those that do not read."""
    other = {"run.dir", "reward.parts.*.pattern"}
    found: set[str] = set()

    def look(schema: dict[str, Any], dotted: str) -> None:
        for option in [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]:
            if "$ref" in option:
                section = models[option["$ref"].rpartition("/")[2]]
                for name, field in section["properties"].items():
                    if name in ("path", "dir", "data_dir", "function"):
                        found.add(f"{dotted}.{name}")
                    if name == "dataset":
                        found.add(f"{dotted}.dataset.name")
                    look(field, f"{dotted}.{name}")
            for items in ("items", "additionalProperties"):
                if isinstance(option.get(items), dict):
                    look(option[items], f"{dotted}.*")

    schema = RunConfig.model_json_schema()
    models = schema["$defs"]
    for name, field in schema["properties"].items():
        look(field, name)
    assert found - other == set(PATHS)


@pytest.mark.parametrize(
    ("field", "text", "settled"),
    [
        ("model.path", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("model.path", "gpt2", "gpt2"),
        ("model.path", "./none", "FOLDER/none"),
        ("model.path", "data/none", "FOLDER/data/none"),
        ("model.path", "../up/none/model", "PARENT/up/none/model"),
        ("prompts.path", "none.jsonl", "FOLDER/none.jsonl"),
        ("prompts.path", "~/rows.jsonl", "HOME/rows.jsonl"),
        ("prompts.path", ["/x/a.jsonl", "**/*.jsonl"], ["/x/a.jsonl", "FOLDER/**/*.jsonl"]),
        ("prompts.dataset", {"name": "openai/gsm8k"}, {"name": "openai/gsm8k"}),
        ("prompts.mixture", [{"path": "a"}], [{"path": "FOLDER/a"}]),
        ("evaluation.data_dir", "data", "FOLDER/data"),
        ("reward.function", "my.py:score", "FOLDER/my.py:score"),
        ("reward.function", "package.module:score", "package.module:score"),
        ("reward.parts", {"a": {"function": "my.py:f"}}, {"a": {"function": "FOLDER/my.py:f"}}),
        ("run.dir", "~/runs", "HOME/runs"),
        ("prompts.path", "x" * 300, "FOLDER/" + "x" * 300),
        ("model.path", "x" * 300, "x" * 300),
        ("prompts.path", 5, 5),
    ],
)  # fmt: skip
def test_where_a_path_leads(
    beside: Path, monkeypatch: pytest.MonkeyPatch, field: str, text: object, settled: object
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    section, _, name = field.partition(".")
    values = {section: {name: text}}
    assert settle_paths(values, beside.parent) == []
    written = yaml.safe_dump(settled)
    for word, stands_for in (
        ("FOLDER", beside.parent), ("PARENT", beside.parent.parent), ("HOME", "/home/somebody"),
    ):  # fmt: skip
        written = written.replace(word, str(stands_for))
    assert values[section][name] == yaml.safe_load(written)


def test_in_the_package_of_a_job_paths_stay_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job of the run has its package elsewhere, and must find the same run."""
    written = []
    for session in ("a", "b"):
        package = tmp_path / session / "working_dir_files/_ray_pkg_0"
        (package / "configs/model").mkdir(parents=True)
        monkeypatch.chdir(package)
        path = Path("configs/run.yaml")
        path.write_text(yaml.safe_dump(MINIMAL | {"model": {"path": "model"}}))
        config = load_config(path)
        assert config.model.path == "configs/model"
        assert config.prompts.path == "configs/p.jsonl"
        RunDirectory.open(config, tmp_path / "run")
        written.append((tmp_path / "run/config.json").read_text())
    assert written[0] == written[1]


def test_the_config_of_a_run_has_absolute_paths_and_an_older_one_may_have_relative_ones(
    beside: Path,
) -> None:
    run_dir = beside.parent.parent / "run"
    config = load_config(beside)
    directory = RunDirectory.open(config, run_dir)
    assert load_config(run_dir / "config.json") == config
    file = directory.path / "config.json"
    Path("d.jsonl").touch()
    relative = file.read_text().replace(str(beside.parent / "d.jsonl"), "d.jsonl")
    file.write_text(relative)
    RunDirectory.open(load_config(beside), run_dir)


def test_a_pattern_goes_through_folders_and_only_its_star_has_a_meaning(tmp_path: Path) -> None:
    names = ("a/1.jsonl", "a/b[1]/2.jsonl", "a/b1/3.jsonl", "a/b1/4.txt", "a/b1/sub.jsonl/x")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in files_matching(f"{tmp_path}/{pattern}")]

    assert found("a/**/*.jsonl") == ["a/1.jsonl", "a/b1/3.jsonl", "a/b[1]/2.jsonl"]
    assert found("a/b[1]/*") == ["a/b[1]/2.jsonl"]
    assert found("a/*.none") == []
    assert found("a/none") == ["a/none"]


def test_a_reader_sees_paths_from_where_he_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)
    assert shown(str(CONFIGS / "local")) == "configs/local"
    assert shown("/somewhere/else") == "/somewhere/else"
    assert shown("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("name", ["demo", "mixed-sources", "no-shadow"])
def test_what_we_ship_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIGS / f"local/{name}.yaml")
    taught = config.demonstrations
    paths = [config.model.path, *(source.path for source in (*config.sources, *taught.mixture))]
    paths += [] if taught.mixture else [taught.path]
    assert all(isinstance(path, str) and Path(path).exists() for path in paths)
