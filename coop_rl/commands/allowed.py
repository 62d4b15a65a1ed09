"""What `coop-rl train --allow` may name; imports nothing, so that the command line stays light."""

from enum import StrEnum


class Allowed(StrEnum):
    """What a resume refuses unless it is told not to (`resume`)."""

    DAMAGED_CHECKPOINTS = "damaged-checkpoints"
    """Starting anew beside checkpoints that are all damaged."""
    CHANGED_FILES = "changed-files"
    """Files that are not what they were when the checkpoint was written."""
    OTHER_RUN = "other-run"
    """A checkpoint of a run whose config learns otherwise."""
