"""Section `reward`: how responses are judged."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from coop_rl.config.base import Section

VerifierKind = Literal[
    "exact", "number", "math", "choice", "knights_knaves", "reasoning_gym", "python"
]
FUNCTION_PATTERN = r"^[^:\s][^:]*:[A-Za-z_]\w*$"


class FormatTerm(Section):
    """1 where the response has the form that `style` names, else 0."""

    kind: Literal["format"] = "format"
    style: Literal["boxed", "think", "think_boxed", "answer_tags", "pattern"] = "boxed"
    """`boxed`: the last `\\boxed{}` closed; `think`: one `<think>...</think>` first, and text after
    it; `think_boxed`: both; `answer_tags`: `<think>...</think> <answer>...</answer>`; none of them
    empty; `pattern`: the regular expression `pattern` matches the whole response."""
    pattern: str | None = None
    """A regular expression; style `pattern` only."""
    weight: float = 0.1
    """Factor of the term in the reward."""

    @model_validator(mode="after")
    def _check_pattern(self) -> Self:
        if (self.style == "pattern") != (self.pattern is not None):
            raise ValueError("give pattern with style pattern, and only there")
        return self


class LengthTerm(Section):
    """0 up to a length of `free_tokens`, then falling linearly to -1 at `max_tokens`."""

    kind: Literal["length"] = "length"
    free_tokens: int = Field(ge=0)
    """Length of the longest response that costs nothing."""
    max_tokens: int = Field(ge=1)
    """Length from which the term is -1."""
    weight: float = 1.0
    """Factor of the term in the reward."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.free_tokens >= self.max_tokens:
            raise ValueError(
                f"free_tokens must be below max_tokens {self.max_tokens}, got {self.free_tokens}"
            )
        return self


class PythonTerm(Section):
    """A function of your own (docs/rewards.md)."""

    kind: Literal["python"] = "python"
    function: str = Field(pattern=FUNCTION_PATTERN)
    """`module:function` or `path/to/file.py:function`; takes an Answer, returns a number, or takes
    all responses to a prompt and returns a list of numbers."""
    weight: float = 1.0
    """Factor of the term in the reward."""


Term = Annotated[FormatTerm | LengthTerm | PythonTerm, Field(discriminator="kind")]


class RewardSection(Section):
    """The verifier and further terms, run in a pool of processes."""

    kind: VerifierKind = "exact"
    """What decides whether a response is right. `exact`: the text after the last marker equals the
    gold answer; `number`: the number in the box, or the last one, equals it; `math`: equal
    mathematics, by math-verify; `choice`: the letter of an option; `knights_knaves`: everybody's
    role; `reasoning_gym`: the task's own scorer; `python`: `function`. See docs/rewards.md."""
    function: str | None = Field(None, pattern=FUNCTION_PATTERN)
    """`module:function` or `path/to/file.py:function`; kind `python` only."""
    marker: str = Field("#", min_length=1)
    """What precedes the final answer in a response; `exact` only."""
    weight: float = 1.0
    """Factor of the verifier's value in the reward."""
    parts: dict[str, Term] = Field({})
    """Further terms of the reward by name, each with its weight."""
    flip_probability: float = Field(0.0, ge=0.0, le=1.0)
    """Noise, for studies of robustness: the verifier's value r of a training response becomes 1 - r
    with this probability; accuracy and evaluation see the truth."""
    num_actors: int = Field(1, ge=1)
    """Reward actors, each with a pool of its own; a group goes to the one that has the fewest."""
    num_workers: int = Field(1, ge=1)
    """Processes of each reward actor that judge responses."""
    time_limit_s: float = Field(5.0, gt=0)
    """Seconds that judging one response may take; then the process is killed."""
    memory_limit_mib: int = Field(1024, ge=64)
    """Memory in MiB that such a process may take beyond what it had when it started."""
    shuffle: bool = False
    """Control experiment: give each prompt's rewards to another prompt, so that RL learns
    nothing."""

    @property
    def functions(self) -> tuple[str, ...]:
        """The user's functions that the section names, in order."""
        terms = [term.function for term in self.parts.values() if term.kind == "python"]
        return tuple(filter(None, [self.function, *terms]))

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        if (self.kind == "python") != (self.function is not None):
            raise ValueError(
                f"reward.function goes with reward.kind python, and only there; got kind "
                f"{self.kind} and function {self.function}"
            )
        if "correct" in self.parts:
            raise ValueError("reward.parts: the name correct is the verifier's; choose another")
        return self
