"""Names of the groups that link the learners' worlds; `peers` says what travels in them."""

W_GROUP = "w"
"""Meta-controller (rank 0) to every learner rank: w."""
RESYNC_GROUP = "resync"
"""A rank of `joint` (rank 0) to that of `shadow`: its part of theta, moments and gradient."""
