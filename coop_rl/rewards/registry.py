"""All verifiers by the name they have in `reward.kind`."""

from typing import TYPE_CHECKING

from coop_rl.rewards.exact import EXACT
from coop_rl.rewards.number import NUMBER_VERIFIER
from coop_rl.rewards.verdict import Verifier, VerifierSettings

if TYPE_CHECKING:
    from coop_rl.config.reward import RewardSection

VERIFIERS: dict[str, Verifier] = {"exact": EXACT, "number": NUMBER_VERIFIER}


def settings_of(section: "RewardSection") -> VerifierSettings:
    """Return what verifiers need of the section."""
    return VerifierSettings(marker=section.marker)
