"""What a model may write, through every verifier and term, and onto the terminal and the report."""

import importlib.util
import json
import math
import random
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from coop_rl.config.reward import RewardSection
from coop_rl.errors import printable
from coop_rl.observability.console import RunConsole
from coop_rl.observability.json_console import JsonConsole
from coop_rl.report.content import content_of
from coop_rl.report.page import page
from coop_rl.report.stored_run import read_run
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.terms import evaluate_term
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Reward
from tests.fuzz.mutation import CONTROLS, model_text
from tests.fuzz.survey import NUM_CASES, require_harmless, survey
from tests.report.runs import lines, sample, write_run

GOLDS = {
    "exact": ("42", "x", "\x1b[2J"),
    "number": ("42", "1/2", "1,234.5", "-3e5", "9" * 300),
    "choice": ("B", "(c)", "A. 4", r"\text{(D)}"),
    "knights_knaves": ("(1) Zoey is a knight\n(2) Riley is a knave", "Amelia: knave"),
}
TERMS = {
    **{style: {"kind": "format", "weight": 1.0, "style": style}
       for style in ("boxed", "think", "think_boxed", "answer_tags")},
    "own": {"kind": "format", "weight": 1.0, "style": "pattern", "pattern": r".*\d+.*"},
    "length": {"kind": "length", "weight": 1.0, "free_tokens": 2, "max_tokens": 9},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(GOLDS))
def test_verifiers(kind: str) -> None:
    settings = settings_of(RewardSection(kind=kind))
    verifier = VERIFIERS[kind]
    assert verifier.render is not None

    def case(rng: random.Random) -> None:
        gold = rng.choice(GOLDS[kind])
        text = model_text(rng, gold, verifier.render(gold, settings))  # type: ignore[misc]
        answer = Answer(text, gold, is_thinking=rng.random() < 0.3)
        verdict = verifier.verify(answer, settings)
        assert verdict.value == float(verdict.is_correct)
        # Hostile data may hold anything for a gold answer, too.
        assert math.isfinite(verifier.verify(Answer(gold, text), settings).value)

    survey(kind, case)


def test_reasoning_gym() -> None:
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("shared data: the package reasoning-gym is not here")
    import reasoning_gym

    settings, verifier = (
        settings_of(RewardSection(kind="reasoning_gym")),
        VERIFIERS["reasoning_gym"],
    )
    entries = {
        name: reasoning_gym.create_dataset(name, size=1, seed=1)[0]
        for name in ("chain_sum", "countdown", "knights_knaves", "mini_sudoku", "letter_counting")
    }

    def case(rng: random.Random) -> None:
        name = rng.choice(sorted(entries))
        gold = str(entries[name]["answer"])
        details = json.dumps({"task": name, "entry": entries[name]}, default=str)
        verdict = verifier.verify(Answer(model_text(rng, gold), gold, details), settings)
        assert verdict.value == float(verdict.is_correct)

    survey("reasoning_gym", case)


def test_terms() -> None:
    settings = settings_of(RewardSection.model_validate({"parts": TERMS}))

    def case(rng: random.Random) -> None:
        answer = Answer(model_text(rng), "", num_tokens=rng.choice((0, 1, 5, 10**9)))
        for term in settings.terms:
            assert -1.0 <= evaluate_term(term, answer) <= 1.0

    survey("terms", case)


def test_math_in_its_pool() -> None:
    """Everything is judged, within the pool's own limits."""
    rng, golds = random.Random("math"), ("42", r"\frac{1}{2}", r"x^2+1", "(1, 2)", r"\{1,2\}")
    pool = RewardPool(RewardSection(kind="math", num_workers=2, time_limit_s=2.0))
    try:
        for done in range(0, NUM_CASES, 250):
            chosen = [rng.choice(golds) for _ in range(min(250, NUM_CASES - done))]
            answers = [Answer(model_text(rng, f"\\boxed{{{g}}}", g), g) for g in chosen]
            verdicts = pool.score(answers)
            assert len(verdicts) == len(answers)
            assert all(v.value == float(v.is_correct) for v in verdicts)
    finally:
        pool.close()


def test_terminal_live_view_and_json() -> None:
    def case(rng: random.Random) -> None:
        text, out = model_text(rng, *CONTROLS), StringIO()
        source = rng.choice((text[:20], "book"))
        terminal = Console(file=out, force_terminal=True, width=rng.choice((20, 80, 200)))
        console = RunConsole(terminal)
        console.begin(0, 9)
        console.sample(text, model_text(rng, *CONTROLS), Reward(1.0, True))
        console.line(text)
        console.warn(f"prompt {text} is set aside")
        console.milestone(text)
        row = {"reward/mean": 0.5, "time/step_s": 1.0, f"guidance/weight/{source}": 0.5}
        console.step({"step": 1, "tokens/generated": 10, f"time/{source}_s": 0.5, **row})
        beat = {"children": [{"name": source, "state": "stopped"}], "silent_s": 99.0}
        console.health({"actors": {source: beat}})
        console.close()
        require_harmless(without_bar(out.getvalue()))
        written = StringIO()
        as_json = JsonConsole(Console(file=written))
        as_json.sample(text, text, Reward(float("nan"), True))
        as_json.line(text)
        assert written.getvalue().isascii()
        assert json.loads(written.getvalue().splitlines()[0])["prompt"] == text
        assert printable(text).isprintable()

    survey("terminal", case)


def without_bar(text: str) -> str:
    """Take away how rich itself moves its bar."""
    for code in ("\x1b[1A", "\x1b[2K", "\x1b[?25l", "\x1b[?25h", "\r"):
        text = text.replace(code, "")
    return text


def test_report(tmp_path: Path) -> None:
    """A run of hostile samples at a time: its page shows them as data."""
    run = write_run(tmp_path / "run", num_steps=2)

    def case(rng: random.Random) -> None:
        wrote = [model_text(rng, "</script>", "<!--", "]]>") for _ in range(4)]
        texts = [text.encode("utf-8", "replace").decode() for text in wrote]  # as samples are kept
        rows = [
            sample(step, text, prompt=text, answer=text, given=text[:9], prompt_id=text[:9])
            for step, text in enumerate(texts)
        ]
        lines(run / "samples.jsonl", rows)
        whole = page(content_of([read_run(run)]))
        whole.encode()
        data = whole.partition('type="application/json"')[2].partition("</script>")[0]
        shown = [row["response"] for row in json.loads(data.partition(">")[2])["samples"]]
        assert sorted(shown) == sorted((text[:9] + text)[:4_000] for text in texts)

    survey("report", case)
