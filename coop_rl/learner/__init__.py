"""Learner groups and meta-controller: from a PackedBatch to the next theta, theta-hat and w."""
