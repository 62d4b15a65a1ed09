"""Terms of the reward, their weighted sum, user functions, and noise."""

import re
from pathlib import Path

import numpy as np
import pytest

from coop_rl.config.reward import RewardSection
from coop_rl.errors import ConfigError, RunError
from coop_rl.rewards.noise import flip_rewards
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.scoring import score_group
from coop_rl.rewards.terms import has_form, length_penalty
from coop_rl.rewards.user import RewardValueError, check_functions, result_of
from coop_rl.rewards.verdict import CRASHED, Answer
from coop_rl.rewards.worker import judge
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, RolloutGroup, ScoredGroup

FUNCTIONS = str(Path(__file__).parent / "user_functions.py")


@pytest.mark.parametrize(
    ("text", "styles"),
    [
        (r"<think>a</think> so \boxed{4}", "boxed think think_boxed"),
        (r"a</think>so \boxed{4}", "boxed think think_boxed"),
        (r"<think>\boxed{4}</think> 4", "boxed think"),
        (r"<think>a</think><think>b</think> \boxed{4}", "boxed"),
        ("<think>a</think> <answer>4</answer>", "think answer_tags"),
        ("<think>a</think> <answer>4</answer> bye", "think"),
        ("<think>a</think>", ""),
        (r"\boxed{4}", "boxed"),
        (r"\boxed{4", ""),
        (r"\boxed{}", ""),
        (r"\boxed{ }", ""),
        (r"\boxed{4} \boxed{}", ""),
        (r"<think></think> so \boxed{4}", "boxed"),
        ("<think> \n</think> 4", ""),
        (r"<think>a</think> \boxed{}", "think"),
        ("<think>a</think> <answer> </answer>", "think"),
        ("<think>a</think> <answer></answer>", "think"),
        ("</think> 4", ""),
        ("", ""),
    ],
)
def test_forms(text: str, styles: str) -> None:
    names = ("boxed", "think", "think_boxed", "answer_tags")
    assert [name for name in names if has_form(text, name)] == styles.split()


def test_pattern_matches_the_whole_response() -> None:
    assert has_form("a\nb", "pattern", "a.b")
    assert not has_form("a\nbc", "pattern", "a.b")


def test_length_penalty_is_linear_between_its_ends() -> None:
    assert [length_penalty(n, 10, 20) for n in (0, 10, 15, 20, 99)] == [0, 0, -0.5, -1, -1]


def section(**fields: object) -> RewardSection:
    return RewardSection.model_validate(fields)


def test_value_is_the_weighted_sum_and_parts_are_named() -> None:
    pool = RewardPool(
        section(
            weight=2.0,
            parts={
                "form": {"kind": "format", "style": "pattern", "pattern": ".*#.*", "weight": 0.5},
                "short": {"kind": "length", "free_tokens": 4, "max_tokens": 8, "weight": 0.25},
                "own": {"kind": "python", "function": f"{FUNCTIONS}:shouting", "weight": 0.1},
            },
        )
    )
    right, wrong = pool.score(
        [Answer("SO #4", "4", num_tokens=6), Answer("so 5", "4", num_tokens=3)]
    )
    pool.close()
    assert right.parts == (("correct", 1.0), ("form", 1.0), ("short", -0.5), ("own", 1.0))
    assert right.value == pytest.approx(2 + 0.5 - 0.125 + 0.1)
    assert (right.is_correct, wrong.is_correct) == (True, False)
    assert wrong.value == 0.0


def test_user_functions_judge_and_their_failures_cost_one_answer() -> None:
    pool = RewardPool(section(kind="python", function=f"{FUNCTIONS}:moody"))
    verdicts = pool.score([Answer(t, "") for t in ("fine", "half", "raise", "nan", "text", "full")])
    pool.close()
    assert [v.value for v in verdicts] == [1.0, 0.5, 0.0, 0.0, 0.0, 0.75]
    assert [v.is_correct for v in verdicts] == [True, False, False, False, False, True]
    assert [v for v in verdicts if v.status == "crashed"] == [CRASHED] * 3


def test_what_user_functions_return_becomes_plain_or_crashes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A term that fails on the canary, too, is no reason to refuse the verifier."""
    function = f"{FUNCTIONS}:odd_types"
    texts = ("mine", "own", "value", "none", "huge", "inf", "exit", "none")
    parts = {"own": {"kind": "python", "function": function}}
    for fields in ({"kind": "python", "function": function}, {"parts": parts}):
        pool = RewardPool(section(**fields))
        verdicts = pool.score([Answer(t, "") for t in texts])
        pool.close()
        assert [v.value for v in verdicts] == [0.5, 1.0, *[0.0] * 6]
        assert [v.status for v in verdicts] == ["scored"] * 2 + ["crashed"] * 6
        assert {type(v.value) for v in verdicts} == {float}
    warnings = capfd.readouterr().err
    # Each place once in each of the two pools' one process.
    assert warnings.count("SystemExit at ") == 2
    assert warnings.count("RewardValueError at ") == 2


@pytest.mark.parametrize(
    ("said", "value"),
    [("1", 1.0), ("True", 1.0), ("False", 0.0), ("0.25", 0.25), ("Reward(True, 1)", 1.0),
     ("-1e6", -1e6), ("__import__('numpy').float32(0.5)", 0.5), ("__import__('torch').ones(1)", 1),
     ("__import__('numpy').bool_(True)", 1.0), ("__import__('fractions').Fraction(1, 4)", 0.25)],
)  # fmt: skip
def test_what_counts_as_a_number(said: str, value: float) -> None:
    result = result_of(f"{FUNCTIONS}:returning", Answer(said, ""))
    assert (result.value if isinstance(result, Reward) else result) == value


@pytest.mark.parametrize(
    ("said", "message"),
    [("'1'", r"returned '1' \(str\); return a number, True or False, or a Reward"),
     ("b'1'", r"returned b'1' \(bytes\)"), ("None", r"returned None \(NoneType\)"),
     ("[1]", r"returned \[1\] \(list\)"), ("Reward('1', True)", r"returned '1' \(str\)"),
     ("Reward(1, 'False')", r"returned 'False' \(str\)"),
     ("1e308", r"returned 1e\+308; rewards lie within 1e\+06 of 0"),
     ("-2e6", r"returned -2e\+06"), ("'x' * 10**6", r"returned 'x{39} \(str\)")],
)  # fmt: skip
def test_what_is_no_reward(said: str, message: str) -> None:
    with pytest.raises(RewardValueError, match=message):
        result_of(f"{FUNCTIONS}:returning", Answer(said, ""))


def test_a_sum_beyond_the_range_of_rewards_is_not_scored() -> None:
    """Eight rewards of 1e308 have no mean."""
    settings = settings_of(section(weight=1e308))
    assert judge(VERIFIERS["exact"], settings, Answer("#4", "4")) == CRASHED
    assert judge(VERIFIERS["exact"], settings, Answer("#5", "4")).status == "scored"


def test_functions_see_prompt_columns_and_the_whole_response() -> None:
    prompt = Prompt("a", "Q <think>", (1,), "4", columns='{"level": "hard"}')
    group = RolloutGroup(prompt, (Rollout((1,), (0.0,), "so 4", False, PolicyVersion(0, 0)),))
    pool = RewardPool(section(kind="python", function=f"{FUNCTIONS}:hard_of_level"))
    scored = score_group(pool, group)
    pool.close()
    assert [reward.value for reward in scored.rewards] == [1.0]


def test_functions_that_take_a_batch_get_all_responses_to_a_prompt() -> None:
    """What goes wrong costs the responses to that prompt; other verifiers go on by themselves."""
    function = f"{FUNCTIONS}:rank"
    texts = {"a": ("x", "xx", "xxxx"), "b": ("raise", "xx"), "c": ("short", "xx"),
             "d": ("die", "xx"), "e": ("sleep", "xx"), "f": ("xx",) * 40}  # fmt: skip
    answers = [Answer(text, "", prompt=prompt) for prompt in texts for text in texts[prompt]]
    pool = RewardPool(
        section(kind="python", function=function, num_workers=2, time_limit_s=0.4), kinds=["exact"]
    )
    verdicts = pool.score([*answers, Answer("#4", "4", verifier="exact", prompt="g")])
    pool.close()
    assert [v.value for v in verdicts[:3]] == [0.25, 0.5, 1.0]
    assert [v.status for v in verdicts[3:11]] == ["crashed"] * 6 + ["timeout"] * 2
    assert [v.is_correct for v in verdicts[11:]] == [True] * 41


def test_a_term_may_take_a_batch() -> None:
    parts = {"own": {"kind": "python", "function": f"{FUNCTIONS}:rank", "weight": 0.5}}
    pool = RewardPool(section(parts=parts))
    verdicts = pool.score([Answer("#4", "4", prompt="a"), Answer("long #5", "4", prompt="a")])
    pool.close()
    assert [v.value for v in verdicts] == pytest.approx([1 + 0.5 * 2 / 7, 0.5])


def test_a_function_only_the_workers_cannot_load_stops_the_pool(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot start: reward function .*cannot import"):
        RewardPool(section(kind="python", function=f"{tmp_path}/gone.py:f"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("nowhere/f.py:f", "no such file nowhere/f.py"),
        (f"{FUNCTIONS}:missing", "has no function missing; it has .*moody"),
    ],
)
def test_functions_that_cannot_be_loaded_are_refused(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_functions(section(kind="python", function=function))
    with pytest.raises(ConfigError, match=message):
        check_functions(section(parts={"own": {"kind": "python", "function": function}}))
    check_functions(section(kind="python", function=f"{FUNCTIONS}:moody"))


def groups(num: int, *rewards: Reward) -> list[ScoredGroup]:
    rollout = Rollout((1,), (0.0,), "", False, PolicyVersion(0, 0))
    return [
        ScoredGroup(Prompt(str(i), "", (1,), ""), (rollout,) * len(rewards), rewards)
        for i in range(num)
    ]


def test_noise_flips_the_verifiers_part_alone_with_its_probability() -> None:
    one = Reward(2.5, True, parts=(("correct", 1.0), ("form", 0.5)))
    zero = Reward(0.5, False, parts=(("correct", 0.0), ("form", 0.5)))
    flipped = flip_rewards(groups(2000, one, zero), 0.3, 2.0, seed=5)
    rewards = [reward for group in flipped for reward in group.rewards]
    assert np.mean([r.is_flipped for r in rewards]) == pytest.approx(0.3, abs=0.03)
    assert {(r.value, r.is_correct, r.is_flipped) for r in rewards} == {
        (2.5, True, False), (0.5, True, True), (0.5, False, False), (2.5, False, True),
    }  # fmt: skip
    again = flip_rewards(groups(2000, one, zero)[100:], 0.3, 2.0, seed=5)
    assert again == flipped[100:]
    assert flip_rewards(groups(2000, one, zero), 0.3, 2.0, seed=6) != flipped
    plain = flip_rewards(groups(1, Reward(1.0, True)), 1.0, 1.0, seed=0)
    assert plain[0].rewards[0].value == 0.0


def test_wrong_reward_sections_are_refused() -> None:
    for fields, message in (
        ({"kind": "python"}, "goes with reward.kind python"),
        ({"function": "a:b"}, "goes with reward.kind python"),
        ({"kind": "python", "function": "print('x')"}, "String should match"),
        ({"parts": {"correct": {"kind": "format"}}}, "choose another"),
        ({"parts": {"f": {"kind": "format", "style": "pattern"}}}, "give pattern"),
        ({"parts": {"f": {"kind": "length", "free_tokens": 9, "max_tokens": 9}}}, "below"),
    ):
        with pytest.raises(ValueError, match=message):
            section(**fields)


@pytest.mark.parametrize(
    ("example", "function", "values"),
    [(1, "brief_and_right", [0.99, -0.02]), (3, "shortest_first", [1.0, 0.5])],
)
def test_the_examples_of_the_documentation_run(
    tmp_path: Path, example: int, function: str, values: list[float]
) -> None:
    page = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")
    code = re.split(r"```(?:python)?\n", page.partition("## Your own function")[2])[example]
    (tmp_path / f"{function}.py").write_text(code, encoding="utf-8")
    pool = RewardPool(section(kind="python", function=f"{tmp_path}/{function}.py:{function}"))
    right, wrong = pool.score(
        [Answer("so 4", "4", num_tokens=10), Answer("so 5", "4", num_tokens=20)]
    )
    pool.close()
    assert [right.value, wrong.value] == pytest.approx(values)
    assert (right.is_correct, wrong.is_correct) == (True, False)


def test_answers_may_name_their_own_verifier() -> None:
    pool = RewardPool(section(), kinds=["math", "choice"])
    verdicts = pool.score(
        [
            Answer("#4", "4"),
            Answer(r"\boxed{0.5}", "1/2", verifier="math"),
            Answer(r"\boxed{B}", "(B)", verifier="choice"),
            Answer(r"\boxed{0.5}", "1/2"),
        ]
    )
    pool.close()
    assert [v.is_correct for v in verdicts] == [True, True, True, False]
