"""What a run is at, in one word."""

from enum import StrEnum


class RunState(StrEnum):
    STARTING = "starting"  # nothing ran yet
    TRAINING = "training"
    RESHAPING = "reshaping"  # a generation was written whose members are not all ready
    HOLDING = "holding"  # too few nodes: the state is held
    FINISHED = "finished"  # the outcome is known, or the final weights are being written
