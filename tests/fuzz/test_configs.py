"""Config files and --set: accepted as what they say, or refused in one line."""

import json
import random
import shutil
from pathlib import Path

import yaml

from coop_rl.config import RunConfig, derive_sizes, load_config
from coop_rl.config.load import build_config
from coop_rl.observability.run_directory import flatten
from tests.fuzz.mutation import ODD_TEXTS, YAML_TOKENS, changed_bytes, changed_value
from tests.fuzz.survey import require_harmless, survey
from tests.support.in_process import coop_rl

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
BY_COMMAND = 0.02
"""Share of cases that go through the command, which takes longer."""


def changed_config(rng: random.Random, folder: Path) -> Path:
    """One of ours, changed, beside those that it may extend."""
    example = rng.choice(EXAMPLES)
    data = (CONFIGS / example).read_bytes()
    if rng.random() < 0.5:
        data = changed_bytes(rng, data, (*YAML_TOKENS, *ODD_TEXTS))
    else:
        text = yaml.safe_dump(changed_value(rng, yaml.safe_load(data)), allow_unicode=True)
        data = text.encode("utf-8", "surrogatepass")
    path = folder / example.parent / "case.yaml"
    path.write_bytes(data)
    return path


FIELDS = sorted(flatten(load_config(CONFIGS / "local/demo.yaml").model_dump(mode="json")))


def overrides(rng: random.Random) -> list[str]:
    odd = (*YAML_TOKENS, *ODD_TEXTS)
    return [f"{rng.choice(FIELDS)}={rng.choice(odd)}" for _ in range(rng.choice((0, 0, 1, 2)))]


def require_same_again(config: RunConfig) -> None:
    """What show-config prints of an accepted config is valid input, and the same config."""
    printed = config.model_dump_json()
    assert build_config(json.loads(printed), "again") == config
    derive_sizes(config)


def test_config_files(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    for example in EXAMPLES:
        (folder / example).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONFIGS / example, folder / example)

    def case(rng: random.Random) -> None:
        path, sets = changed_config(rng, folder), overrides(rng)
        if rng.random() < BY_COMMAND:
            done = coop_rl("show-config", str(path), *(f"--set={text}" for text in sets))
            assert done.returncode in (0, 2)
            require_harmless(done.stderr)
            if done.returncode == 2:
                assert done.stderr.splitlines()[-1].startswith("coop-rl: ")
            return
        require_same_again(load_config(path, sets))

    survey("config", case)
