"""The report's charts, as data: which metric stands where, and what it says when it is missing.

`assets/charts.js` draws them; `content` leaves out those that no run has measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coop_rl.metric_names import EVALUATION, REWARD, VALIDATION_NLL

Style = Literal["noisy", "line", "points"]
Section = Literal["learning", "gain", "guidance", "gradients", "forgetting"]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of a chart."""

    metric: str
    label: str
    style: Style = "line"
    """noisy: single steps faint, their running mean bold; points: few, joined by a line."""
    stderr: str | None = None
    """Metric of its standard error; the band is 1.96 of it."""
    is_interval: bool = False
    """Whether <metric>_low and <metric>_high are its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture."""

    section: Section
    title: str
    about: str
    series: tuple[Series, ...]
    unit: str = ""
    is_share: bool = False
    """Shown in percent, from 0."""
    has_zero: bool = False
    """Whether a line marks zero."""
    missing: str = ""
    """What to set so that it is measured; empty: it is left out without a word."""


CHARTS = (
    Chart(
        "learning",
        "Training reward",
        "Mean over the step's responses; faint: single steps, bold: mean of nine.",
        (Series(REWARD, "reward", "noisy"),),
        "reward",
    ),
    Chart(
        "learning",
        "Training accuracy",
        "Share of the step's responses with the right answer.",
        (Series("reward/accuracy", "accuracy", "noisy"),),
        is_share=True,
    ),
    Chart(
        "learning",
        "Held-out SFT loss",
        "Mean negative log-likelihood of a token of demonstrations kept from training.",
        (Series(VALIDATION_NLL, "held-out SFT loss", "points"),),
        "nats",
        missing="set evaluation.num_demonstrations",
    ),
    Chart(
        "learning",
        "Training SFT loss",
        "Negative log-likelihood of the step's demonstrations under the policy.",
        (Series("loss/sft", "SFT loss", "noisy"),),
        "nats",
    ),
    Chart(
        "gain",
        "Cooperative gain G, pooled",
        "Reward of joint training over that of the shadow, which RL alone trains: mean of the last "
        "measurements with its 95 % interval. An interval across zero shows no gain.",
        (Series("gain/pooled", "G pooled", stderr="gain/pooled_stderr"),),
        "reward",
        has_zero=True,
        missing="only methods with a shadow, or with gain.audit_every, measure it",
    ),
    Chart(
        "gain",
        "Gain of single steps",
        "Most of it is noise: look at the pooled one.",
        (Series("gain/value", "gain", "noisy"),),
        "reward",
        has_zero=True,
    ),
    Chart(
        "gain",
        "Gain on held-out prompts",
        "Fresh rollouts of both branches, with the 95 % interval.",
        (Series("gain/audit", "audited gain", "points", "gain/audit_stderr"),),
        "reward",
        has_zero=True,
        missing="set gain.audit_every",
    ),
    Chart(
        "guidance",
        "λ, the share of RL",
        "Share of the RL gradient in the policy's step.",
        (Series("guidance/mix", "λ"),),
        is_share=True,
    ),
    Chart(
        "guidance",
        "Weights of the sources",
        "Share that each source of demonstrations has in the SFT loss.",
        (Series("guidance/weight/*", "*"),),
        is_share=True,
        missing="learned where meta.guidance has demonstrations",
    ),
    Chart(
        "guidance",
        "Size of the adapter w",
        "Norm of the guidance parameters, and of one step's change.",
        (
            Series("guidance/adapter_norm", "w"),
            Series("guidance/update_norm", "change in a step"),
        ),
    ),
    Chart(
        "gradients",
        "Gradient norms",
        "Before weighting and clipping.",
        (
            Series("grad/rl_norm", "RL", "noisy"),
            Series("grad/sft_norm", "SFT", "noisy"),
            Series("grad/shadow_norm", "shadow", "noisy"),
        ),
        missing="set learner.grad_stats_every",
    ),
    Chart(
        "gradients",
        "Cosine of RL and SFT",
        "1: both pull the same way; 0: at right angles; below 0: against each other.",
        (
            Series("grad/cosine", "RL and SFT", "noisy"),
            Series("guidance/bracket_cosine", "bracket and SFT", "noisy"),
        ),
        has_zero=True,
    ),
    Chart(
        "forgetting",
        "Held-out SFT loss above its lowest",
        "What the policy has lost of its fit to demonstrations.",
        (Series("forgetting/nll_rise", "rise", "points"),),
        "nats",
        missing="set evaluation.num_demonstrations and evaluation.every",
    ),
    Chart(
        "forgetting",
        "Token accuracy lost",
        "Highest token accuracy on held-out demonstrations so far, less the present one.",
        (Series("forgetting/token_accuracy_lost", "lost", "points"),),
        is_share=True,
    ),
    Chart(
        "forgetting",
        "Training reward below its best",
        "Best mean of five steps so far, less the last such mean. Noise makes dips too.",
        (Series("forgetting/reward_below_best", "below best"),),
        "reward",
    ),
)


def accuracy_charts(names: Sequence[str]) -> list[Chart]:
    """Return one chart for each evaluation set among metrics: its greedy and sampled accuracy."""
    figures: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(EVALUATION) and f"{name}_low" in names:
            set_name, _, figure = name.removeprefix(EVALUATION).partition("/")
            figures.setdefault(set_name, []).append(figure)
    return [
        Chart(
            "learning",
            f"Held-out accuracy: {set_name}",
            "Bars: 95 % intervals over the items.",
            tuple(
                Series(f"{EVALUATION}{set_name}/{figure}", figure, "points", is_interval=True)
                for figure in own
                if figure.startswith(("pass@1", "avg@"))
            ),
            is_share=True,
        )
        for set_name, own in figures.items()
    ]
