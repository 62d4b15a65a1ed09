"""A chat template's faults are one line, before rows are rendered."""

from pathlib import Path

import pytest

from coop_rl.data import chat_template
from coop_rl.data.chat_template import end_of_turn, try_chat_template
from coop_rl.data.rendering import load_tokenizer
from coop_rl.errors import ModelError

MODEL = str(Path(__file__).parents[2] / "configs/local/demo/model")
ALL = "{% for m in messages %}<{{ m.role }}>{{ m.content }}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
            "fails on system and user messages: TemplateError: no system; drop prompts.system",
        ),
        (ALL, "TemplateSyntaxError: Unexpected end of template"),
        (ALL + "{% endfor %}{{ tool.name }}", "UndefinedError: 'tool' is undefined"),
        (ALL + "{% endfor %}{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(99999) %}" * 3 + "x" + "{% endfor %}" * 3, "no end after 0.2 s"),
        (ALL + "{% endfor %}{{ 'x' * 2000000 }}", "makes 2,000,0.* characters"),
        ("{{ messages[-1].content }}", "leaves the system message out"),
        (
            "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}"
            "{% endfor %}",
            "leaves the system message out",
        ),
    ],
    ids=["system", "syntax", "undefined", "error", "endless", "long", "ignored", "parts"],
)
def test_a_faulty_template_is_one_line(
    monkeypatch: pytest.MonkeyPatch, template: str, expected: str
) -> None:
    monkeypatch.setattr(chat_template, "TRIAL_LIMIT_S", 0.2)
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=expected) as caught:
        try_chat_template(tokenizer, "prompts", has_system=True, arguments={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "expected"), [("<bos>", "<bos>"), ("<eos>\n", "<eos>"), ("", None)]
)
def test_the_token_that_ends_an_answer_is_found(end: str, expected: str | None) -> None:
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = ALL + end + "{% endfor %}"
    try_chat_template(tokenizer, "prompts", has_system=True, arguments={})
    assert end_of_turn(tokenizer) == expected
