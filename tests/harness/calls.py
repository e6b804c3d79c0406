"""What a computation costs, in calls: those are the same on every machine, however busy; seconds are for benchmarks."""

import cProfile
from collections.abc import Callable


def calls_of(work: Callable[[], object]) -> int:
    """Of Python and built-in functions."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())
