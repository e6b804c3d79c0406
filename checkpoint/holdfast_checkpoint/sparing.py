"""Which copies in RAM are given up, and when: rules for whoever holds copies, by origin, layer and version. Pure.

What they keep up between them: the kept version, of which every layer lies where it should, is never given up for one
that does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A version to go back to. It goes when the next kept one is told, or the first version of `generation` comes."""

    version: Version
    generation: int

    def after(self, arriving: Version) -> "Spare | None":
        """What is left of it when version `arriving` comes."""
        _, generation = arriving
        return self if generation < self.generation else None


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


def spared_at_arrival(
    here: Collection[Version], kept: Collection[Version | None], spare: Spare | None
) -> Collection[Version]:
    """Of a layer's other versions only what is kept, as anybody knows, and the spare one; where there is neither, the
    newest."""
    stay = [version for version in here if version in kept or (spare is not None and version == spare.version)]
    return stay or sorted(here, key=age)[-1:]


def outlives_change(copy: Held, wanted: Collection[int], kept: Version, spare: Spare | None) -> bool:
    """Once version `kept` is whole: copies for peers of layers that are not to be kept here any more are of use no
    longer than until then."""
    if copy.kind != PEER or copy.layer in wanted or age(copy.version) >= age(kept):
        return True
    return spare is not None and copy.version == spare.version


def newest_whole(versions: Mapping[Version, Collection[int]], layers: Collection[int]) -> Version | None:
    """The newest version of which all these layers are there."""
    whole = (version for version, held in versions.items() if all(layer in held for layer in layers))
    return max(whole, key=age, default=None)


def said_to_hold(
    for_peers: Mapping[Version, Collection[int]], layers: Collection[int], told: Version | None
) -> Version | None:
    """The version of these layers that a node says it keeps for a peer: what that one `told` of, if it is whole here,
    else the newest. A source whose newest is older than ours would else have news for us for ever.

    `for_peers`: of copies that are kept for peers alone. What this node's own workers have at the same version does not
    count: they give it up without asking.
    """
    if told is not None and all(layer in for_peers.get(told, ()) for layer in layers):
        return told
    return newest_whole(for_peers, layers)
