"""All verifiers by the name they have in `reward.kind`, and the config as what workers need."""

from typing import TYPE_CHECKING

from coop_rl.rewards.choice import CHOICE_VERIFIER
from coop_rl.rewards.exact import EXACT
from coop_rl.rewards.knights_knaves import KNIGHTS_KNAVES_VERIFIER
from coop_rl.rewards.math_answer import MATH_VERIFIER
from coop_rl.rewards.number import NUMBER_VERIFIER
from coop_rl.rewards.task_score import REASONING_GYM_VERIFIER
from coop_rl.rewards.user import PYTHON_VERIFIER
from coop_rl.rewards.verdict import TermSettings, Verifier, VerifierSettings

if TYPE_CHECKING:
    from coop_rl.config.reward import RewardSection

VERIFIERS: dict[str, Verifier] = {
    "exact": EXACT,
    "number": NUMBER_VERIFIER,
    "math": MATH_VERIFIER,
    "choice": CHOICE_VERIFIER,
    "knights_knaves": KNIGHTS_KNAVES_VERIFIER,
    "reasoning_gym": REASONING_GYM_VERIFIER,
    "python": PYTHON_VERIFIER,
}


def settings_of(section: "RewardSection") -> VerifierSettings:
    """Return what workers need of the section."""
    terms = tuple(
        TermSettings(name=name, **term.model_dump(exclude_none=True))
        for name, term in section.parts.items()
    )
    return VerifierSettings(
        section.marker, section.function or "", section.kind, section.weight, terms
    )
