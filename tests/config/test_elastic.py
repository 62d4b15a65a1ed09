"""`rollout.num_actors`: a number, or a range where nodes come and go."""

from pathlib import Path

import pytest

from coop_rl.config import derive_sizes, load_config
from coop_rl.config.reference import render_reference
from coop_rl.errors import ConfigError
from coop_rl.planning.report import roles_table
from coop_rl.rollout.capacity import sequences_at_once

DEMO = Path("configs/local/demo.yaml")
RANGE = "rollout.num_actors={min: 2, max: 5}"
ON_CLUSTER = (RANGE, "placement.address=auto")


def test_a_number_stays_one_and_a_range_starts_with_its_least() -> None:
    number = load_config(DEMO, ["rollout.num_actors=2"])
    assert number.rollout.num_actors == number.rollout.min_actors == number.rollout.max_actors == 2
    assert number.model_dump(mode="json")["rollout"]["num_actors"] == 2
    assert not number.rollout.is_elastic
    elastic = load_config(DEMO, ON_CLUSTER)
    assert derive_sizes(elastic).cpus == derive_sizes(number).cpus
    assert sequences_at_once(elastic) == sequences_at_once(number)
    again = type(elastic).model_validate_json(elastic.model_dump_json())
    assert again == elastic
    cells = list(roles_table(elastic, 8).columns[1].cells)
    assert cells[0] == "2 to 5"
    assert "| `num_actors` | section or integer ≥ 1 | `1` |" in render_reference()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("rollout.num_actors=0",),
            "rollout.num_actors: must be an integer of at least 1, or {min: A, max: B}, got 0",
        ),
        (("rollout.num_actors=many",), "or {min: A, max: B}, got 'many'"),
        (("rollout.num_actors={min: 1}",), "rollout.num_actors.max is missing"),
        (("rollout.num_actors={min: 3, max: 2}",), "max must be at least min 3, got 2"),
        (("rollout.num_actors={min: 1, most: 2}",), "unknown config key rollout.num_actors.most"),
        ((RANGE,), "rollout.num_actors 2 to 5: placement.address null starts a Ray on this"),
        ((*ON_CLUSTER, "placement.colocated=true"), "placement.colocated has engines and learners"),
        (
            (*ON_CLUSTER, "placement.rollout={gpus: 0.5}"),
            "placement.rollout.gpus 0.5 lets engines share a device",
        ),
        ((*ON_CLUSTER, "placement.rollout={}"), "placement.rollout reserves nothing"),
        (
            (*ON_CLUSTER, "placement.rollout={cpus: 1, strategy: strict_spread}"),
            "placement.rollout.strategy strict_spread is about all actors together",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(DEMO, overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
