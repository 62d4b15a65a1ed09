"""PolicyModel against transformers' own logits."""

import pytest
import torch

from coop_rl.errors import ModelError
from coop_rl.models import PolicyModel, checkpoint_name, load_causal_lm
from tests.models.tiny import random_rows, save_tiny, tiny_model, to_tensors


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_and_entropy_are_those_of_the_logits(is_tied: bool, temperature: float) -> None:
    model = tiny_model(is_tied=is_tied)
    token_ids_BL, is_response_BL = to_tensors(random_rows())
    scores = PolicyModel(model, temperature=temperature, logits_chunk=5)(
        token_ids_BL, is_response_BL
    )

    log_prob_BLV = (model(token_ids_BL).logits / temperature).log_softmax(-1)
    expected, entropy = [], []
    for b, position in is_response_BL.nonzero().tolist():
        row_V = log_prob_BLV[b, position - 1]
        expected.append(row_V[token_ids_BL[b, position]])
        entropy.append(-(row_V.exp() * row_V).sum())
    torch.testing.assert_close(scores.log_prob_T, torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.entropy_T, torch.stack(entropy), rtol=1e-5, atol=1e-6)
    assert not scores.entropy_T.requires_grad


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_gradients_do_not_depend_on_the_chunk(chunk: int) -> None:
    token_ids_BL, is_response_BL = to_tensors(random_rows())

    def gradients(logits_chunk: int) -> dict[str, torch.Tensor]:
        policy = PolicyModel(tiny_model(), logits_chunk=logits_chunk)
        policy(token_ids_BL, is_response_BL).log_prob_T.sum().backward()
        return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    expected = gradients(7)
    for name, gradient in gradients(chunk).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing() -> None:
    policy, rows = PolicyModel(tiny_model()), random_rows()
    narrow = policy(*to_tensors(rows)).log_prob_T
    wide = policy(*to_tensors(rows, width=40, padding=9)).log_prob_T
    torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-6)
    alone = torch.cat([policy(*to_tensors([row])).log_prob_T for row in rows])
    torch.testing.assert_close(narrow, alone, rtol=1e-5, atol=1e-6)


def test_a_row_without_response_reaches_every_parameter() -> None:
    # On several ranks the backward passes are collectives: an anchor row must take part in all.
    policy = PolicyModel(tiny_model(is_tied=False))
    token_ids_BL = torch.zeros(1, 2, dtype=torch.int64)
    scores = policy(token_ids_BL, torch.zeros(1, 2, dtype=torch.bool))
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


def test_unsupported_logits_are_refused() -> None:
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        PolicyModel(model)
