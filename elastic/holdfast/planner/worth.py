"""Whether to reshape, and into what: a layout is worth the samples it commits until the next loss is expected.

Liveput (Parcae, NSDI'24), without its forecast of who goes when: a layout that yields r samples a second after a
transition of s seconds, while losses come at a rate h, is worth r * E[max(0, T - s)] = r * exp(-h s) / h until then. To
stay is a layout without a transition. So a gain that the transition eats before the next loss is not taken
(hysteresis), and what is taken is never worth less than to react at once with the fastest layout, which is among the
options. What comes after the next loss is open to all of them alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, isfinite

# Nothing is planned for longer than this: beyond, markets and jobs change.
HORIZON_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Option:
    """A layout that can be had: samples a second, and seconds without a step before it runs, 0 if it runs already."""

    rate: float
    transition_s: float

    def __post_init__(self) -> None:
        for name in ("rate", "transition_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name}: {value} given; should be finite, and 0 or more")


def worth(option: Option, loss_per_s: float, horizon_s: float = HORIZON_S) -> float:
    """Samples committed until the next loss or the horizon, whichever comes first, transition included."""
    left_s = horizon_s - option.transition_s
    if left_s <= 0:
        return 0.0
    if loss_per_s * horizon_s < 1e-9:
        return option.rate * left_s
    return option.rate * exp(-loss_per_s * option.transition_s) * (1 - exp(-loss_per_s * left_s)) / loss_per_s


def best(options: Sequence[Option], loss_per_s: float, horizon_s: float = HORIZON_S) -> int:
    """Which of them to take: the most worth, then the shortest transition, then the first.

    Raises:
        ValueError: there is none.
    """
    if not options:
        raise ValueError("options: none given; at least one is needed")
    return min(
        range(len(options)),
        key=lambda at: (-worth(options[at], loss_per_s, horizon_s), options[at].transition_s, at),
    )
