"""Figures that change all the time: how they are written, and that they are not written all the time."""

from collections.abc import Callable

from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from holdfast_operator.api.v1alpha1.times import seconds_of

_GAUGES = ("step", "progress", "samples_per_second", "goodput")


def progress(step: int, steps: int) -> str:
    return f"{step}/{steps}"


def rate(per_s: float | None) -> str:
    """Three figures are more than a rate is good for."""
    return f"{per_s:.3g}" if per_s is not None and per_s < 1000 else f"{per_s:.0f}" if per_s is not None else ""


def percent(share: float | None) -> str:
    return f"{share:.1%}" if share is not None else ""


def with_gauges_of(status: ElasticJobStatus, other: ElasticJobStatus) -> ElasticJobStatus:
    return status.model_copy(update={name: getattr(other, name) for name in _GAUGES})


def is_fresh_enough(
    before: ElasticJobStatus, after: ElasticJobStatus, every_s: float, is_due: Callable[[float], bool]
) -> bool:
    """Whether `before` may stand for a while: they differ in figures alone, which are written at most every `every_s`.
    `is_due` tells whether a time has come, and remembers it if not."""
    if before.observed_time is None or with_gauges_of(after, before) != before:
        return False
    return not is_due(seconds_of(before.observed_time) + every_s)
