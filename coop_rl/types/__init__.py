"""The nouns of the data's way; every one frozen, with one producer and one consumer.

    Prompt -> Rollout (in a RolloutGroup) -> ScoredGroup -> TokenSample -> PackedBatch
           -> StepResult -> CooperativeGain -> GuidanceUpdate -> PolicyVersion

Only these cross an actor boundary. Shape suffixes used throughout the project: P prompts,
G samples per prompt, N samples of a batch (P x G), B samples or demonstrations of a micro-batch,
K lanes of L places, T scored (response) tokens, V vocabulary, H hidden, R adapter rank.
"""

from coop_rl.types.batch import (
    BranchBatch,
    Demonstration,
    MicroBatch,
    MicroBatches,
    PackedBatch,
    SourceBatch,
    TokenGrid,
    TokenRow,
    TokenSample,
)
from coop_rl.types.learning import (
    AdapterGradients,
    CooperativeGain,
    DemonstrationFit,
    DemonstrationLoss,
    DemonstrationTerm,
    GradientParts,
    Guidance,
    GuidanceUpdate,
    Lesson,
    LookaheadProducts,
    Objective,
    SampleSums,
    SkipReason,
    StepMeans,
    StepResult,
    Updates,
    Work,
)
from coop_rl.types.rollout import (
    NOTHING_GIVEN,
    Given,
    Prompt,
    Reward,
    Rollout,
    RolloutGroup,
    Sampled,
    SamplingSettings,
    ScoredGroup,
)
from coop_rl.types.version import Branch, PolicyVersion

__all__ = [
    "NOTHING_GIVEN",
    "AdapterGradients",
    "Branch",
    "BranchBatch",
    "CooperativeGain",
    "Demonstration",
    "DemonstrationFit",
    "DemonstrationLoss",
    "DemonstrationTerm",
    "Given",
    "GradientParts",
    "Guidance",
    "GuidanceUpdate",
    "Lesson",
    "LookaheadProducts",
    "MicroBatch",
    "MicroBatches",
    "Objective",
    "PackedBatch",
    "PolicyVersion",
    "Prompt",
    "Reward",
    "Rollout",
    "RolloutGroup",
    "SampleSums",
    "Sampled",
    "SamplingSettings",
    "ScoredGroup",
    "SkipReason",
    "SourceBatch",
    "StepMeans",
    "StepResult",
    "TokenGrid",
    "TokenRow",
    "TokenSample",
    "Updates",
    "Work",
]
