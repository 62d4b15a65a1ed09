"""The first minutes on a GPU: what a learner, an engine and a run reach there (`make gpu`)."""
