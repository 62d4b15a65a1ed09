"""`extends`: one config laid over another; and keys given twice, which no file may hold."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coop_rl.commands.submit import plan_submission
from coop_rl.config import config_files, load_config, load_serving_config
from coop_rl.errors import ConfigError, RunDirectoryError
from tests.config.test_load import MINIMAL
from tests.main_job.harness import ROOT

BASE = {
    **MINIMAL,
    "method": {"kind": "bridge", "mix": 0.25, "rl": {"kind": "dapo", "max_refills": 5}},
    "adapter": {"rank": 4, "targets": ["q_proj", "k_proj"]},
    "placement": {"rollout": {"cpus": 2, "gpus": 0.5, "labels": {"role": "rollout"}}},
    "reward": {"parts": {"form": {"kind": "format", "style": "think", "weight": 0.3}}},
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "shared/base.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(BASE))
    return path


@pytest.fixture
def overlay(tmp_path: Path, base: Path) -> Path:
    """A config that changes nothing but the name."""
    return write(tmp_path / "overlay.yaml", "run: {name: other}")


def write(path: Path, text: str, named: str = "shared/base.yaml") -> Path:
    path.write_text(f"extends: {named}\n{text}\n")
    return path


def test_sections_are_merged_field_by_field_and_lists_replaced(overlay: Path) -> None:
    write(
        overlay,
        "run: {name: other}\nadapter: {targets: [o_proj]}\n"
        "placement: {rollout: {gpus: 1, labels: {zone: a}}}",
    )
    config = load_config(overlay, ["run.num_steps=7"])
    assert (config.run.name, config.run.num_steps) == ("other", 7)
    assert (config.adapter.rank, config.adapter.targets) == (4, ("o_proj",))
    assert config.placement.rollout.cpus == 2
    assert config.placement.rollout.gpus == 1
    assert config.placement.rollout.labels == {"role": "rollout", "zone": "a"}
    assert config.model.path == "m"  # relative to the working directory, as ever


@pytest.mark.parametrize(
    "sets",
    [
        "method: {kind: sft}",
        "method: {kind: rl}",
        "method: {rl: {kind: grpo}}",
        "method: {kind: hpt, rl: {kind: gspo, clip_low: 0.1}}",
        "reward: {parts: {form: {kind: length, free_tokens: 1, max_tokens: 2}}}",
    ],
)
def test_a_changed_kind_drops_what_the_new_variant_does_not_have(
    overlay: Path, base: Path, sets: str
) -> None:
    """As `--set` does, kind first."""

    def dotted(value: object, name: str = "") -> list[str]:
        if not isinstance(value, dict):
            return [f"{name[1:]}={value}"]
        return [text for key, item in value.items() for text in dotted(item, f"{name}.{key}")]

    by_overlay = load_config(write(overlay, sets))
    assert by_overlay == load_config(base, dotted(yaml.safe_load(sets)))


def test_what_the_overlay_itself_misspells_is_not_dropped(overlay: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown config key method\.mix;"):
        load_config(write(overlay, "method: {kind: rl, mix: 0.5}"))


def test_the_resolved_config_does_not_extend_and_is_input_again(
    overlay: Path, tmp_path: Path
) -> None:
    resolved = tmp_path / "config.json"
    resolved.write_text(load_config(overlay).model_dump_json())
    assert load_config(resolved) == load_config(overlay)
    assert config_files(resolved) == [resolved]


def test_json_extends_and_is_extended(tmp_path: Path, overlay: Path) -> None:
    (tmp_path / "base.json").write_text(load_config(overlay).model_dump_json())
    path = tmp_path / "overlay.json"
    path.write_text('{"extends": "base.json", "learner": {"lr": 1e-4}}')
    assert load_config(path).learner.lr == 1e-4
    assert load_config(path).run.name == "other"


def test_an_evaluation_reads_the_extended_file_too(overlay: Path) -> None:
    assert load_serving_config(overlay, {}).reward.parts["form"].weight == 0.3


@pytest.mark.parametrize(
    ("named", "base_text", "said"),
    [
        ("absent.yaml", "", "overlay.yaml extends absent.yaml: cannot read config"),
        ("overlay.yaml", "", "extends overlay.yaml, which itself extends overlay.yaml; one level"),
        ("b.yaml", "extends: shared/base.yaml", "extends b.yaml, which itself extends shared/base"),
        ("b.yaml", "- 1", "b.yaml must hold a mapping of sections, got list"),
        ("b.yaml", "run: {seed: 1, seed: 2}", "duplicate key run.seed, twice in line 1; keep one"),
        ("b.yaml", "run: [", "b.yaml is not valid YAML"),
        ("[a.yaml, b.yaml]", "", "extends must name one file by its path from this one, got ['a."),
        ("", "", "extends must name one file by its path from this one, got None"),
        ("/etc/base.yaml", "", "got '/etc/base.yaml'; write extends: other.yaml"),
    ],
)
def test_what_cannot_be_extended_is_refused_in_one_line(
    overlay: Path, named: str, base_text: str, said: str
) -> None:
    (overlay.parent / "b.yaml").write_text(base_text)
    with pytest.raises(ConfigError) as caught:
        load_config(write(overlay, "", named))
    assert said in str(caught.value)
    assert str(overlay) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_one_line_and_exit_code_2(overlay: Path) -> None:
    write(overlay, "", "absent.yaml")
    command = [sys.executable, "-m", "coop_rl", "show-config", str(overlay)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_job_takes_the_extended_file_along(overlay: Path, base: Path, tmp_path: Path) -> None:
    config = load_config(overlay)
    job = plan_submission(config, overlay, (), tmp_path / "run", tmp_path)
    assert "train overlay.yaml" in job.entrypoint
    assert config_files(overlay) == [overlay, base]
    apart = tmp_path / "package/overlay.yaml"
    apart.parent.mkdir()
    write(apart, "", "../shared/base.yaml")
    with pytest.raises(RunDirectoryError, match=r"base\.yaml is not in the working directory"):
        plan_submission(config, apart, (), tmp_path / "run", apart.parent)


def test_a_key_given_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    for text, said in (
        ("learner:\n  lr: 1\n  num_ranks: 1\n  'lr': 2", "learner.lr, lines 2 and 4"),
        ("run: {name: x}\nmodel: {path: m}\nrun: {name: y}", "run, lines 1 and 3"),
        ("prompts:\n  mixture:\n  - name: a\n  - {name: b,\n     name: c}",
         "prompts.mixture.1.name, lines 4 and 5"),
        ("a: &x\n  b: 1\nc:\n  <<: *x\n  <<: *x", "c.<<, lines 4 and 5"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: duplicate key {said}; keep one"


def test_a_key_given_twice_by_set_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(base, ["placement.rollout={cpus: 1, cpus: 2}"])
    assert str(caught.value) == (
        "--set placement.rollout: duplicate key placement.rollout.cpus, twice in line 1; keep one"
    )


def test_merge_keys_and_aliases_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    rates = "learner: &rates {lr: 0.5, weight_decay: 0.1}\nadapter: {<<: *rates, lr: 0.25}\n"
    path.write_text(yaml.safe_dump(MINIMAL) + rates)
    adapter = load_config(path).adapter
    assert (adapter.lr, adapter.weight_decay) == (0.25, 0.1)
