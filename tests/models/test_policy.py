"""PolicyModel against transformers' own logits."""

import pytest
import torch

from coop_rl.algorithm.lanes import lay_out
from coop_rl.errors import ModelError
from coop_rl.models import PolicyModel, checkpoint_name, load_causal_lm
from tests.models.tiny import random_rows, save_tiny, tiny_model, to_grid


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_are_those_of_the_logits(is_tied: bool, temperature: float) -> None:
    model, rows = tiny_model(is_tied=is_tied), random_rows()
    scores = PolicyModel(model, temperature=temperature, logits_chunk=5)(*to_grid(rows))

    expected, entropy = [], []
    for prompt, response in rows:
        logits_LV = model(torch.tensor([prompt + response])).logits[0] / temperature
        log_prob_TV = logits_LV.log_softmax(-1)[len(prompt) - 1 : -1]
        expected.append(log_prob_TV[torch.arange(len(response)), list(response)])
        entropy.append(-(log_prob_TV.exp() * log_prob_TV).sum(-1))
    torch.testing.assert_close(scores.log_prob_T, torch.cat(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.entropy_T, torch.cat(entropy), rtol=1e-5, atol=1e-6)
    assert not scores.entropy_T.requires_grad


@pytest.mark.parametrize("has_entropy_gradient", [False, True])
@pytest.mark.parametrize("num_kept", [0, 1, 3])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_gradients_do_not_depend_on_the_chunk(
    chunk: int, num_kept: int, has_entropy_gradient: bool
) -> None:
    """Against autograd through whole logits."""
    grid, weight = to_grid(random_rows()), torch.linspace(-1, 2, 200, dtype=torch.float64)

    def gradients(policy: PolicyModel, log_prob_T, entropy_T) -> dict[str, torch.Tensor]:
        loss = (weight[: len(log_prob_T)] * log_prob_T).sum()
        if has_entropy_gradient:
            loss = loss + (weight[: len(entropy_T)].flip(0) * entropy_T).sum()
        loss.backward()
        return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    policy = PolicyModel(
        tiny_model().double(),
        temperature=0.7,
        logits_chunk=chunk,
        num_kept_chunks=num_kept,
        has_entropy_gradient=has_entropy_gradient,
    )
    scores = policy(*grid)
    got = gradients(policy, scores.log_prob_T, scores.entropy_T)
    plain = PolicyModel(tiny_model().double())
    logits_TV = plain.causal_lm(grid.token_ids_KL).logits.flatten(0, 1)[grid.source_T] / 0.7
    log_p_TV = logits_TV.log_softmax(-1)
    entropy_T = -(log_p_TV.exp() * log_p_TV).sum(-1)
    expected = gradients(plain, log_p_TV.gather(1, grid.target_T[:, None])[:, 0], entropy_T)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_neighbours_in_a_batch_change_nothing() -> None:
    policy, rows = PolicyModel(tiny_model()), random_rows()
    together = policy(*to_grid(rows)).log_prob_T
    alone = torch.cat([policy(*to_grid([row])).log_prob_T for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_an_anchor_reaches_every_parameter() -> None:
    # On several ranks the backward passes are collectives: an anchor must take part in all.
    policy = PolicyModel(tiny_model(is_tied=False))
    scores = policy(*lay_out([]).grid)
    assert scores.log_prob_T.shape == (0,)
    scores.log_prob_T.sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any()


def test_parameter_names_are_the_checkpoint_s() -> None:
    for is_tied in (True, False):
        model = tiny_model(is_tied=is_tied)
        own = [checkpoint_name(name) for name, _ in PolicyModel(model).named_parameters()]
        assert own == [name for name, _ in model.named_parameters()]
        assert ("lm_head.weight" in own) == (not is_tied)


def test_loading(tmp_path) -> None:
    path = save_tiny(tmp_path / "model")
    model = load_causal_lm(path, torch.bfloat16, activation_checkpointing=True)
    assert model.dtype == torch.bfloat16
    assert model.training
    with pytest.raises(ModelError, match=r"model\.path"):
        load_causal_lm(str(tmp_path / "nothing"), torch.float32)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/config.json").write_text((tmp_path / "model/config.json").read_text())
    torch.save({}, tmp_path / "pickled/pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(str(tmp_path / "pickled"), torch.float32)
