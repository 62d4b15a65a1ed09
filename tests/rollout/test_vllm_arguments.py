"""What vLLM is started with by device, and the text of a response."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput

from coop_rl.config import load_config
from coop_rl.rollout.arguments import UNIPROC, EngineDevice, decoded, engine_arguments
from coop_rl.rollout.vllm_engine import VllmEngine, _to_rollout
from tests.main_job.harness import DEMO

H100 = EngineDevice("NVIDIA H100 80GB HBM3", 79.6)
A100 = EngineDevice("NVIDIA A100-SXM4-80GB", 79.2)
L4 = EngineDevice("NVIDIA L4", 22.5)


@pytest.mark.parametrize(("workers", "executor"), [(1, UNIPROC), (2, "mp")])
def test_workers_are_processes_of_the_actor_and_no_other_actors(
    workers: int, executor: str
) -> None:
    config = load_config(DEMO, [f"rollout.tensor_parallel_size={workers}"])
    arguments = VllmEngine(config, "gloo").arguments()
    assert arguments["tensor_parallel_size"] == workers
    assert arguments.get("distributed_executor_backend") == executor
    assert arguments["enforce_eager"] is True
    assert "max_num_batched_tokens" not in arguments


@pytest.mark.parametrize(
    ("device", "sets", "expected"),
    [
        (H100, (), {"enforce_eager": False, "max_num_batched_tokens": 16384}),
        (A100, (), {"max_num_batched_tokens": 8192}),
        (L4, (), {"max_num_batched_tokens": 8192, "max_cudagraph_capture_size": None}),
        (L4, ("rollout.max_num_seqs=600",), {"max_cudagraph_capture_size": 600}),
        (L4, ("rollout.max_num_seqs=9000",), {"max_num_batched_tokens": 9000}),
        (
            L4,
            ("rollout.max_num_seqs=600", "rollout.enforce_eager=true"),
            {"enforce_eager": True, "max_cudagraph_capture_size": None},
        ),
        (L4, (), {"enable_sleep_mode": False, "sleep_mode_offload_cudagraph": False}),
        (
            L4,
            ("placement.colocated=true",),
            {"enable_sleep_mode": True, "sleep_mode_offload_cudagraph": True},
        ),
        (None, (), {"enforce_eager": True, "enable_sleep_mode": None}),
        (None, ("rollout.enforce_eager=false",), {"enforce_eager": False}),
    ],
)
def test_arguments_by_device(device, sets, expected) -> None:
    arguments = engine_arguments(load_config(DEMO, [*sets]), device)
    assert {name: arguments.get(name) for name in expected} == expected


SAID = "The sum of 37 and 48 is 85.\nNaïve café — 東京 🙂🙃 \\boxed{85} "


def byte_level() -> PreTrainedTokenizerFast:
    """Bytes as tokens, as Qwen and Llama 3 have them: characters may lie across tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    every = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=every, special_tokens=["<e>"])
    tokenizer.train_from_iterator([SAID], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>")


def word_level() -> PreTrainedTokenizerFast:
    """Words with a mark for the space before them, which the first of a text loses."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator([SAID], trainers.BpeTrainer(special_tokens=["<e>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>")


def demo() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(DEMO.parent / "demo/model")


@pytest.mark.parametrize("build", [byte_level, word_level, demo])
def test_decoding_at_the_end_gives_what_token_by_token_gives(build) -> None:
    tokenizer, draw = build(), random.Random(0)
    said = tokenizer.encode(SAID.replace("85.", "85.<e>"))
    for number in range(1000):
        begin = draw.randrange(len(said))
        prompt = said[:begin] or said[:1]
        if tokenizer.decode(prompt).endswith("�"):
            continue  # the stream then repeats the whole prompt
        if number % 2:  # text that is cut anywhere
            response = said[begin : begin + draw.randrange(1, 30)]
        else:  # tokens that make no text
            response = [draw.randrange(len(tokenizer)) for _ in range(draw.randrange(1, 30))]
        stream = decoders.DecodeStream(ids=prompt, skip_special_tokens=True)
        steps = (stream.step(tokenizer._tokenizer, token) or "" for token in response)
        try:
            expected = "".join(steps)
        except Exception:  # the stream gives up on some tokens that make no text
            assert number % 2 == 0
            continue
        assert decoded(tokenizer, prompt, response) == expected, (prompt, response)


@pytest.mark.parametrize(("reason", "text"), [("stop", "85"), ("length", "85 ")])
def test_a_response_has_its_own_log_probs_and_no_text_of_what_stopped_it(reason, text) -> None:
    tokenizer = byte_level()
    prompt, ids = tokenizer.encode("is "), tokenizer.encode("85 ")
    flat = FlatLogprobs()
    for token in ids:
        flat.append_fast([token], [-0.5 - token], iter([1]), [None])
    completion = CompletionOutput(0, "", ids, None, flat, finish_reason=reason)
    with pytest.raises(Exception, match="weight versions"):
        _to_rollout(completion, tokenizer, prompt)
    span = type("Span", (), {"version": "1.2", "start": 0, "end": len(ids)})
    completion.weight_versions = [span]
    rollout = _to_rollout(completion, tokenizer, prompt)
    assert rollout.behaviour_log_probs == tuple(-0.5 - token for token in ids)
    assert (rollout.token_ids, rollout.text) == (tuple(ids), text)
