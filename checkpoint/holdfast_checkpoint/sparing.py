"""Which copies in RAM are given up, and when: rules for whoever holds copies, by origin, layer and version. Pure.

What they keep up between them: the kept version, of which every layer lies where it should, is never given up for one
that does not.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from holdfast_checkpoint.stamp import Version

OWN, PEER, FETCHED = "own", "peer", "fetched"
KINDS = (OWN, PEER, FETCHED)  # in the order in which they are preferred


class Held(Protocol):
    """A copy of a layer. `origin`: "own:<slot index>", "peer:<node>" or "fetched"; its first word is the `kind`."""

    @property
    def layer(self) -> int: ...

    @property
    def version(self) -> Version: ...

    @property
    def origin(self) -> str: ...

    @property
    def kind(self) -> str: ...


def kind_of(origin: str) -> str:
    return origin.partition(":")[0]


def age(version: Version) -> tuple[int, int]:
    """Greater for what came later: a generation may begin at an earlier step than the one before came to."""
    step, generation = version
    return generation, step


def choose(held: Sequence[Version | None], version: Version, keep: Version | None) -> int | None:
    """Which of a layer's buffers that hold `held` a worker writes `version` to; None: a kept one holds it, there is
    nothing to do.

    Never one that holds `keep`. Where there is a choice: the one with that version, else one with none, else the older.
    """
    if version in held:
        return None if version == keep else held.index(version)
    free = [at for at, other in enumerate(held) if other is None or other != keep]
    return min(free, key=lambda at: held[at] or (-1, -1))


def outlives_overwriting(copy: Held, worker: str, kept: Version | None, held: Version | None) -> bool:
    """When the worker of origin `worker` takes a new snapshot. What was fetched for it, it has taken over by then.
    `held`: while nobody trains, what the job waits with; there may be no other copy."""
    if copy.kind == FETCHED:
        return held is not None
    return copy.origin != worker or copy.version in (kept, held)


def outlives_start(copy: Held, wanted: Collection[Version | None], generation: int) -> bool:
    """Once the start of `generation` is decided, nothing comes of other versions than those it wants: the one it starts
    from, the kept one, and the one to go back to if these turn out corrupt; and those of its own, which an agent that
    comes anew may have."""
    return copy.version in wanted or copy.version[1] >= generation


def outlives_arrival(copy: Held, layer: int, arriving: Version, stay: Collection[Version]) -> bool:
    """When version `arriving` of a layer comes from a peer. `stay`: `spared_at_arrival`."""
    return copy.kind != PEER or copy.layer != layer or copy.version == arriving or copy.version in stay


def spared_at_arrival(here: Collection[Version], kept: Collection[Version | None]) -> Collection[Version]:
    """Of a layer's other versions only what is kept, as anybody knows; where that is not known, the newest."""
    return [version for version in here if version in kept] or sorted(here, key=age)[-1:]


def outlives_change(copy: Held, wanted: Collection[int], kept: Version, spare: Version | None) -> bool:
    """Once version `kept` is whole: copies for peers of layers that are not to be kept here any more are of use no
    longer than until then. `spare`: what the job goes back to if that turns out corrupt."""
    return copy.kind != PEER or copy.layer in wanted or copy.version == spare or age(copy.version) >= age(kept)


def newest_whole(versions: Mapping[Version, Collection[int]], layers: Collection[int]) -> Version | None:
    """The newest version of which all these layers are there."""
    whole = (version for version, held in versions.items() if all(layer in held for layer in layers))
    return max(whole, key=age, default=None)
