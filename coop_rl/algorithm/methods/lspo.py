r"""`lspo`: RL, helped on prompts that all failed by an adapter that is fitted anew at every step.

    F    prompts whose G responses were all wrong, with a demonstration d
    w    <- its start;  fit_steps times:  w <- w - AdamW( h_w^SFT(theta, w) on the d of F )
    y'   ~ pi(theta, w)(. | x)  for x in F:  n = share * G tries, of which the right ones are kept
    L    = L_RL of theta alone; in the groups of F they stand for as many of the wrong responses,
           weighted back from pi(theta, w) to pi_theta by the estimator's own capped weights

The adapter gets no RL gradient, theta no SFT gradient; w is thrown away after the step. This is the
rival with a fixed schedule of `meta.guidance: scaffold` (`algorithm.scaffold`), whose w the
meta-controller keeps and moves by one step at a time.

Source: LSPO (LoRA Scaffolded Policy Optimization), arXiv 2607.27787, where the RL is GRPO with
DAPO's recipe; read in its abstract and others' summaries. What these leave open is ours: how many
tries there are (`share`), how many steps the fit has, its rate (adapter.lr), and that they replace
wrong responses so that groups keep their size.
"""

from dataclasses import replace

from coop_rl.algorithm.methods.base import Method, StepData
from coop_rl.algorithm.scaffold import right_only
from coop_rl.config.rivals import LspoMethod
from coop_rl.types import Guidance, Lesson, Objective


class Lspo(Method[LspoMethod]):
    """RL with a scaffold of one step's life."""

    def objective(self, step: int, guidance: Guidance | None = None) -> Objective:
        """Return L_RL."""
        return Objective(rl_weight=1.0, sft_weight=0.0)

    def compose(self, data: StepData) -> Lesson:
        """Train on all rollouts and the right second tries; w is fitted already."""
        lesson = super().compose(replace(data, second=right_only(data.second)))
        return replace(lesson, scaffold=())
