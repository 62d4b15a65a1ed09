"""The memory model against tensor bytes by torch's profiler, on DeepSpeed itself."""

from pathlib import Path

import pytest

from coop_rl.config import load_config
from coop_rl.planning.memory import checkpoint_bytes, learner_memory
from coop_rl.planning.shape import shape_of
from tests.main_job.harness import DEMO
from tests.planning.measured import learner_bytes

NUM_SAMPLES, LENGTH = 16, 64
AT_REST = ("weights", "masters", "AdamW")
KEPT_BY_STAGE_3 = ("gradients", "reduction", "kept whole")


@pytest.mark.parametrize(
    ("dtype", "stage", "ranks"),
    [
        ("float32", 0, 1),
        ("float32", 3, 2),
        ("bfloat16", 2, 2),
        *(
            pytest.param(*combination, marks=pytest.mark.prove)
            for combination in (
                ("float32", 0, 2),
                ("float32", 1, 2),
                ("float32", 2, 2),
                ("bfloat16", 0, 1),
                ("bfloat16", 0, 2),
                ("bfloat16", 3, 2),
            )
        ),
    ],
)
def test_a_learner_rank_holds_what_plan_says(dtype: str, stage: int, ranks: int) -> None:
    config = load_config(
        Path(DEMO),
        [
            f"model.dtype={dtype}",
            "method.kind=rl",
            f"learner.num_ranks={ranks}",
            f"learner.zero_stage={stage}",
            f"learner.micro_batch_tokens={NUM_SAMPLES * LENGTH // ranks}",
            "learner.grad_stats_every=0",
            "learner.packing=padded",
            "placement.learner.cpus=0",
        ],
    )
    measured = learner_bytes(config, NUM_SAMPLES, LENGTH)
    shape = shape_of(config.model.path)
    plan = learner_memory(config, shape, tokens=int(measured["tokens"]))

    assert measured["peak"] == pytest.approx(plan.total, rel=0.15)
    names = AT_REST + (KEPT_BY_STAGE_3 if stage == 3 else ())
    resting = sum(plan.parts[name] for name in names)
    assert measured["resting"] == pytest.approx(resting, rel=0.05)
    # What is read in 16 bits stays beside what is made of it; a GPU's host has that.
    read = 2 * shape.num_params if stage == 0 and dtype == "float32" else 0
    assert measured["startup"] == pytest.approx(plan.starting + read, rel=0.15)
    assert measured["checkpoint"] == pytest.approx(checkpoint_bytes(config, shape), rel=0.05)


def test_moments_in_host_memory_and_what_a_pass_adds_do_not_meet() -> None:
    shipped = Path(DEMO).parents[1] / "cluster/16-gpus.yaml"
    here, away = (load_config(shipped, [f"learner.offload={value}"]) for value in ("false", "true"))
    shape = shape_of(here.model.path)
    full, spared = learner_memory(here, shape), learner_memory(away, shape)
    passes = full.parts["activations"] + full.parts["logits"]
    assert full.total - spared.total == pytest.approx(min(full.parts["AdamW"], passes))
    assert full.resting - spared.resting == full.parts["AdamW"]
