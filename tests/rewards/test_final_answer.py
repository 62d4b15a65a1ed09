"""Where the final answer stands, in what models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coop_rl.rewards.final_answer import find_final_answer, last_boxed


@pytest.mark.parametrize(
    ("response", "expected", "has_format"),
    [
        (r"So \boxed{4}.", "4", True),
        (r"\boxed{3} no, \boxed{4}", "4", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", True),
        (r"\boxed 7", "7", True),
        (r"\fbox{7}", "7", True),
        (r"\boxed{2} and \boxed{3}", "2, 3", True),
        (r"$\boxed{2}$, $\boxed{3}$ or $\boxed{4}$", "2, 3, 4", True),
        (r"\boxed{3} and \boxed{3}", "3", True),
        (r"\boxed{2} so \boxed{3}", "3", True),
        (r"\boxed{\boxed{5}}", "5", True),
        (r"\boxed{10\\}", r"10\\", True),
        (r"\boxed10", "10", True),
        ("#### 4 <think> or #### 5", "4", True),
        (r"<think>a</think> \boxed{4} <think> or \boxed{5}", "4", True),
        ("#### 18", "18", True),
        ("#### 17\n#### 18\nDone.", "18", True),
        (r"\boxed{4} #### 5", "4", True),
        ("<think>\\boxed{9}</think>\n<answer>8</answer>", "8", True),
        ("<think>9</think><answer>\\boxed{8}</answer>", "8", True),
        ("<answer>8</answer>", "8", True),
        ("The final answer is 7.", "7", False),
        ("The answer is $\\frac12$. I hope", "\\frac12", False),
        ("Answer: **12**\n", "12", False),
        ("so we get $x = 3$ at last", "x = 3", False),
        ("2 + 2 = 4", "4", False),
        ("it costs $1,234.50 in all", "$1,234.50", False),
    ],
)
def test_the_final_answer_is_found(response: str, expected: str, has_format: bool) -> None:
    found = find_final_answer(response)
    assert found is not None
    assert (found.text, found.has_format) == (expected, has_format)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "I do not know",
        r"\boxed{",
        "#### ",
        "<answer></answer>",
        r"\boxed{}",
        r"\boxed{4} \boxed{}",
        r"\boxed{4} and \boxed{never closed",
        r"<think>so \boxed{4}",
        "<think>\n#### 4\n",
        "<think>4",
        "<think><answer>4</answer>",
        r"<think>a</think><think>\boxed{4}",
    ],
)
def test_there_is_none(response: str) -> None:
    assert find_final_answer(response) is None


@given(st.text(max_size=300))
def test_any_box_is_read_back(text: str) -> None:
    find_final_answer(text)
    if not set(text) & set("{}\\"):
        assert last_boxed(f"{text}\\boxed{{{text}}}") == text.strip()


def test_long_texts_take_linear_time() -> None:
    for piece in ("\\boxed{", "{", "$", "####", "<answer>", "answer is ", "1,", "(", "</think>"):
        find_final_answer(piece * 20_000)
