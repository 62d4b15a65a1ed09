"""Trains the base model of the demo: `python -m tests.support.demo.train_base --out FOLDER`.

The corpus is the demo task worked out by someone who loses most carries. So the base knows the
format and can add, but has a systematic gap: it loses carries when it decodes greedily as well as
when it samples, while the right step keeps enough probability for RL to find it. (Traces with
*random* errors would not do: their errors average out, and the base would be right greedily.)

About three minutes on one core; the same seed and machine give the same weights.
"""

import argparse
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from tests.support.demo.model import EOS_ID, PAD_ID, build_model, build_tokenizer, complete, save
from tests.support.demo.task import Problem, Split, draw_problem, is_right, solve_forgetfully

LOG = logging.getLogger(__name__)
IGNORED_LABEL = -100
# The longest response, `99+99=198;198+99=297\n#297`, has 25 characters, then comes <eos>.
MAX_NEW_TOKENS = 26


@dataclass(frozen=True, slots=True)
class BaseTraining:
    """How the base is trained; the defaults made the committed weights."""

    seed: int = 0
    num_steps: int = 650
    batch_size: int = 64
    peak_rate: float = 3e-3
    num_warmup_steps: int = 50
    forget_rate: float = 0.8
    num_evaluated: int = 256
    num_samples: int = 4


def train(settings: BaseTraining, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Train a fresh model on the forgetful corpus; the loss counts responses only."""
    torch.manual_seed(settings.seed)
    rng = random.Random(settings.seed)
    model = build_model()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(settings.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_rate * _rate_factor(step, settings)
        batch = draw_batch(settings, rng, tokenizer)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            LOG.info("step %d of %d: loss %.3f", step + 1, settings.num_steps, loss.item())
    return model


def _rate_factor(step: int, settings: BaseTraining) -> float:
    """Linear warm-up to 1, then linear decay to 0."""
    warmup = (step + 1) / settings.num_warmup_steps
    decay = (settings.num_steps - step) / (settings.num_steps - settings.num_warmup_steps)
    return min(1.0, warmup, decay)


def draw_batch(
    settings: BaseTraining, rng: random.Random, tokenizer: PreTrainedTokenizerFast
) -> dict[str, torch.Tensor]:
    """Draw a right-padded batch of forgetful solutions; `labels` ignores prompts and padding."""
    prompts, texts = [], []
    for _ in range(settings.batch_size):
        problem = draw_problem(rng, Split.BASE)
        solution = solve_forgetfully(problem, rng, settings.forget_rate)
        prompts.append(problem.prompt)
        texts.append(problem.prompt + solution.response)
    rows = [[*ids, EOS_ID] for ids in tokenizer(texts)["input_ids"]]
    length = max(map(len, rows))
    input_ids = torch.full((len(rows), length), PAD_ID)
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        input_ids[index, : len(row)] = torch.tensor(row)
        # One token per character, so the prompt's tokens are as many as its characters.
        labels[index, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
    attention_mask = (input_ids != PAD_ID).long()
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def measure_accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    *,
    num_samples: int,
) -> tuple[float, float]:
    """Return greedy pass@1, and accuracy averaged over `num_samples` samples at temperature 1."""
    prompts = [problem.prompt for problem in problems]

    def accuracy(is_greedy: bool) -> float:
        responses = complete(
            model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, is_greedy=is_greedy
        )
        pairs = zip(responses, problems, strict=True)
        return sum(is_right(text, problem.answer) for text, problem in pairs) / len(problems)

    model.eval()
    sampled = [accuracy(is_greedy=False) for _ in range(num_samples)]
    return accuracy(is_greedy=True), sum(sampled) / num_samples


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save and measure the base model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to save the model in")
    parser.add_argument("--seed", type=int, default=BaseTraining().seed)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # One thread: sums are then formed in one order, and the weights reproduce.
    torch.set_num_threads(1)

    settings = BaseTraining(seed=parsed.seed)
    tokenizer = build_tokenizer()
    model = train(settings, tokenizer)
    save(model, tokenizer, parsed.out)

    rng = random.Random(settings.seed)
    problems = [draw_problem(rng, Split.HELD_OUT) for _ in range(settings.num_evaluated)]
    greedy, sampled = measure_accuracy(model, tokenizer, problems, num_samples=settings.num_samples)
    LOG.info("held-out accuracy: greedy %.3f, sampled %.3f", greedy, sampled)


if __name__ == "__main__":
    main()
