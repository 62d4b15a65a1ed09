"""Operations of a pass, against torch's counter and a dense mask; peaks by a card's full name."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from coop_rl.algorithm.lanes import BatchRow, Tree, grow_trees, lay_out
from coop_rl.config import load_config
from coop_rl.models import load_skeleton
from coop_rl.models.policy import visible
from coop_rl.planning.devices import peak_tflops
from coop_rl.planning.flops import attended_pairs, forward_flops
from coop_rl.planning.shape import shape_of
from tests.main_job.harness import DEMO


def test_a_pass_costs_what_torch_counts() -> None:
    path = load_config(DEMO, []).model.path
    model, lanes, length = load_skeleton(path), 3, 40
    ids_KL = torch.zeros(lanes, length, dtype=torch.int64, device="meta")
    # torch counts attention as if every token saw every other of its lane.
    ours = forward_flops(shape_of(path), lanes * length, lanes * length, lanes * length**2)
    with FlopCounterMode(display=False) as forward:
        logits = model(ids_KL).logits
    assert forward.get_total_flops() == pytest.approx(ours, rel=1e-9)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert backward.get_total_flops() == pytest.approx(2 * ours, rel=1e-9)


def test_pairs_are_those_of_the_mask() -> None:
    rows = [BatchRow(i, (9,) * 5, (1,) * size, 0.0, (0.0,) * size) for i, size in enumerate((3, 7))]
    alone = Tree((BatchRow(2, (8,) * 4, (2,) * 6, 0.0, (0.0,) * 6),))
    grid = lay_out([[*grow_trees(rows, 100), alone], [alone]]).grid
    assert grid.sequence_KL is not None
    assert grid.response_KL is not None
    is_seen = visible(grid.sequence_KL, grid.response_KL) & (grid.sequence_KL >= 0)[:, :, None]
    assert attended_pairs(grid) == int(is_seen.sum())
    assert attended_pairs(lay_out([[alone]]).grid) == 10 * 11 // 2


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835, 60),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA GeForce RTX 4090", None, None),
        ("", None, None),
    ],
)
def test_a_card_is_known_by_its_full_name(
    name: str, bf16: float | None, fp32: float | None
) -> None:
    assert (peak_tflops(name, "bfloat16"), peak_tflops(name, "float32")) == (bf16, fp32)
