"""What we use of DeepSpeed's internals still has the names and arguments we use.

That it does what we need is held by tests/learner/test_deepspeed_engine.py; this says at once which
name an upgrade took away.
"""

import inspect
import re

import pytest

from coop_rl.errors import ConfigError
from coop_rl.learner import deepspeed_engine, zero_storage
from coop_rl.learner.deepspeed_engine import import_deepspeed

SOURCE = inspect.getsource(deepspeed_engine) + inspect.getsource(zero_storage)


@pytest.fixture(scope="module")
def classes() -> list[type]:
    """The engine, and the optimisers of stages 1 and 2, and 3."""
    import os

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    return [DeepSpeedEngine, DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3]


def test_every_internal_we_touch_exists(classes: list[type]) -> None:
    """As a method, or assigned to `self` somewhere in the classes' sources."""
    known = set().union(*(dir(c) for c in classes))
    sources = "".join(inspect.getsource(inspect.getmodule(c) or c) for c in classes)
    known |= set(re.findall(r"self\.(\w+)\b", sources))
    used = set(
        re.findall(r"\b(?:zero|self\._zero|self\._engine\.optimizer|self\._engine)\.(\w+)", SOURCE)
    )
    assert len(used) > 20
    assert used - known - {"optimizer"} == set()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("safe_get_full_fp32_param", ["param"]),
        ("safe_get_full_optimizer_state", ["param", "optim_state_key"]),
        ("safe_get_local_fp32_param", ["param"]),
        ("safe_get_local_optimizer_state", ["param", "optim_state_key"]),
    ],
)
def test_access_functions_take_what_we_pass(
    classes: list[type], name: str, arguments: list[str]
) -> None:
    import deepspeed.utils

    assert list(inspect.signature(vars(deepspeed.utils)[name]).parameters) == arguments
    assert name in SOURCE


def test_the_flat_partition_takes_what_we_pass(classes: list[type]) -> None:
    parameters = list(inspect.signature(vars(classes[1])["get_flat_partition"]).parameters)
    assert parameters == [
        "self", "tensor_list", "first_offset", "partition_size", "dtype", "device",
        "param_group_idx", "return_tensor_list",
    ]  # fmt: skip


def test_a_rank_s_fragment_has_what_we_read(classes: list[type]) -> None:
    from deepspeed.utils import tensor_fragment

    assert "lp_fragment_address" in tensor_fragment.__dataclass_fields__
    parameters = list(inspect.signature(tensor_fragment.get_hp_fragment).parameters)
    assert parameters == ["self", "optim_state_key"]


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import deepspeed

    monkeypatch.setattr(deepspeed, "__version__", "0.20.0")
    with pytest.raises(ConfigError, match=r"deepspeed 0\.20\.0 is installed"):
        import_deepspeed()
