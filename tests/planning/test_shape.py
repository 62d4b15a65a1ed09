"""Sizes of models, against the models themselves and against what their makers publish."""

import pytest

from coop_rl.config import load_config
from coop_rl.errors import ModelError
from coop_rl.models import load_skeleton
from coop_rl.planning.shape import shape_of
from tests.main_job.harness import DEMO


def test_the_count_of_weights_is_the_models() -> None:
    path = load_config(DEMO, []).model.path
    model = load_skeleton(path)
    assert shape_of(path).num_params == pytest.approx(model.num_parameters(), rel=0.002)


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # from the model cards
        ("Qwen/Qwen2.5-0.5B", 0.49),
        ("Qwen/Qwen2.5-3B", 3.09),
        ("meta-llama/Llama-3.2-3B-Instruct", 3.21),
        ("Qwen/Qwen3-8B-Base", 8.2),
        ("Qwen/Qwen3-32B", 32.8),
    ],
)
def test_known_models_have_their_published_size(name: str, billions: float) -> None:
    assert shape_of(name).num_params / 1e9 == pytest.approx(billions, rel=0.01)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no model folder"):
        shape_of("./nowhere/model")
