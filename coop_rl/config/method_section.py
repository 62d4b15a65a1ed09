"""What every section `method` shares; `method` has bridge, `rivals` the others."""

from typing import TYPE_CHECKING, ClassVar, Literal

from coop_rl.config.base import Section
from coop_rl.config.estimators import AnyRl, ReweightedRl, RlSettings

WhichDemonstrations = Literal["none", "next", "matching"]
"""Which demonstrations a method learns from: none; the step's own, in seeded order; or those of the
prompts that the step samples, where the data has them."""


class MethodSection(Section):
    """What the rest of the program asks of a method; a section states only what differs."""

    samples: ClassVar[bool] = True
    """Whether it learns from rollouts."""
    demonstrations: ClassVar[WhichDemonstrations] = "next"
    """Which demonstrations it learns from."""
    skips_rollouts: ClassVar[bool] = False
    """Whether steps without rollouts come between those with them, so that nothing may be sampled
    ahead: it would be too old when it is used."""
    needs_repeats: ClassVar[bool] = False
    """Whether it does something only with prompts that come up again."""
    is_guided: ClassVar[bool] = False
    """Whether a meta-controller guides it: only then do `meta`, `adapter`, `shadow` and `gain`
    count."""

    @property
    def rl_settings(self) -> RlSettings:
        """What all RL losses share; defaults where the method has no section `rl`."""
        return ReweightedRl()

    @property
    def teacher_template(self) -> str | None:
        """How a demonstration is written into its prompt for a teacher; None: there is none."""
        return None

    def num_validation_rows(self, num_demonstrations: int) -> int:  # noqa: ARG002
        """Return how many demonstrations are kept for validation where the config does not say."""
        return 0

    def needs_validation(self, step: int) -> bool:  # noqa: ARG002
        """Return whether the method itself needs the validation NLL after `step` steps."""
        return False


class EstimatorMethod(MethodSection):
    """A method whose RL loss is an estimator's, which its field `rl` chooses."""

    if TYPE_CHECKING:  # a field of every subclass, each with a place and a default of its own
        rl: AnyRl

    @property
    def rl_settings(self) -> RlSettings:
        """The section of the estimator."""
        return self.rl
