"""What config.json tells of windows, states and capped logits is refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from coop_rl.algorithm.lanes import SHARED_TREE_TOKENS
from coop_rl.config import RunConfig, load_config
from coop_rl.data.model_folder import complete_values, text_values
from coop_rl.data.model_limits import (
    LONGEST_SHARED_TREE_TOKENS,
    refuse_other_targets,
    refuse_untrainable,
)
from coop_rl.errors import ConfigError, ModelError
from tests.main_job.harness import DEMO

QWEN2 = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4096}


def configure(*overrides: str) -> RunConfig:
    return load_config(DEMO, ["learner.micro_batch_tokens=16384", *overrides])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "mistral"}, "by sliding_window .* attend to 4096 tokens"),
        (
            {"model_type": "gemma3", "text_config": {"sliding_window": 512}},
            "by sliding_window .* attend to 512 tokens",
        ),
        ({"model_type": "gemma3"}, "by sliding_window .* attend to 4096 tokens"),
        ({"model_type": "gpt_neo"}, "by window_size .* attend to 256 tokens"),
        ({"model_type": "llama4_text"}, "by attention_chunk_size .* attend to 8192 tokens"),
        (QWEN2, "by sliding_window .* attend to 4096 tokens"),
        (
            {"model_type": "gemma3", "text_config": {"final_logit_softcapping": 30.0}},
            "final_logit_softcapping 30.0",
        ),
        ({"model_type": "cohere"}, "logit_scale 0.0625"),
        ({"model_type": "qwen3_next"}, "layer_types linear_attention"),
        (
            {"attn_logit_softcapping": 50.0},
            "attn_logit_softcapping 50.0, which learner.attention sdpa leaves out",
        ),
        ({"model_type": "no_such_model"}, "config.json: .*no_such_model"),
        ({"model_type": "gpt_neo", "window_size": "x"}, "config.json: .*'window_size'.*got str"),
    ],
    ids=lambda value: value.get("model_type", "") if isinstance(value, dict) else value[:30],
)
def test_a_model_that_lanes_would_change_is_refused(
    tmp_path: Path, values: dict[str, Any], expected: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=expected) as caught:
        refuse_untrainable(configure(), complete_values(str(tmp_path), text_values(values)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        ({"sliding_window": 512}, ["learner.packing=padded"]),
        ({"layer_types": ["linear_attention"]}, ["learner.packing=padded"]),
        ({"sliding_window": 512}, ["learner.attention=flash_attention_2"]),
        ({"sliding_window": 512}, ["learner.packing=lanes", "learner.micro_batch_tokens=512"]),
        ({"sliding_window": 1024}, ["learner.micro_batch_tokens=512"]),
        ({"sliding_window": 512, "layer_types": ["full_attention"]}, []),
        ({"window_size": 256, "attention_types": [[["global"], 12]]}, []),
        (QWEN2 | {"max_window_layers": 28, "num_hidden_layers": 28}, []),
        (QWEN2 | {"use_sliding_window": False}, []),
        ({"logits_scaling": 1.0, "final_logit_softcapping": None}, []),
    ],
)
def test_what_changes_nothing_is_accepted(values: dict[str, Any], overrides: list[str]) -> None:
    refuse_untrainable(configure(*overrides), values)


def test_trees_may_be_longer_than_a_micro_batch() -> None:
    """A lane that is one tree of several responses has our mask too."""
    assert max(SHARED_TREE_TOKENS) == LONGEST_SHARED_TREE_TOKENS
    with pytest.raises(ModelError, match="lanes of several sequences may have 1024"):
        refuse_untrainable(configure("learner.micro_batch_tokens=512"), {"sliding_window": 600})


def test_targets_that_match_no_layer_are_named_without_the_model() -> None:
    assert refuse_other_targets(configure(), "llama")
    assert not refuse_other_targets(configure("adapter.targets=[wq]"), "gpt_neox")
    with pytest.raises(ConfigError, match=r"adapter\.targets wq match no .* allowed: down_proj"):
        refuse_other_targets(configure("adapter.targets=[q_proj, wq]"), "qwen3")
