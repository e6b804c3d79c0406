"""A generation that is to end at once, but not yet."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Due:
    """From when on, and why."""

    at_s: float
    reason: str
