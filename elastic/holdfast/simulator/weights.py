"""Layer states as hashes: a state tells the whole history that led to it, so a wrong one cannot look right.

A step's digest covers its number, the blocks that were summed and the state of every layer it was computed from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

State = int


def initial(layer: int) -> State:
    return hash((17, layer))


def digest_of(step: int, states: Sequence[State], blocks: Sequence[int], salt: int) -> int:
    """Of zero-based `step`. `salt`: 0 where sums do not depend on the layout, else something that does."""
    return hash((step, tuple(states), tuple(blocks), salt))


def applied(state: State, layer: int, digest: int) -> State:
    return hash((state, layer, digest))


def loss_of(digest: int) -> float:
    return (digest % 999_983) / 1000


@dataclass(slots=True)
class Reference:
    """The undisturbed run. `states[k][layer]` after k steps; `losses[k]` of the step that ends with k."""

    layers: int
    blocks: int
    steps: int
    states: list[tuple[State, ...]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states.append(tuple(initial(layer) for layer in range(self.layers)))
        self.losses.append(0.0)
        for step in range(self.steps):
            digest = digest_of(step, self.states[-1], range(self.blocks), 0)
            self.states.append(tuple(applied(state, layer, digest) for layer, state in enumerate(self.states[-1])))
            self.losses.append(loss_of(digest))
