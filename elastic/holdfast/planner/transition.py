"""Which layers move from whom to whom, so that the busiest source sends as little as possible."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from typing import TypeAlias

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Plan
from holdfast.model.records import Transfer

_LEVELLING_ROUNDS_MAX = 64

Holdings: TypeAlias = Mapping[SlotId, frozenset[int]]


def transfers(
    plan: Plan, held: Holdings, sources: Holdings, layer_bytes: Sequence[int]
) -> tuple[tuple[Transfer, ...], tuple[tuple[SlotId, int], ...]]:
    """Transfers that give each slot of the plan the layers it lacks, and the (slot, layer) that nobody can send.

    `held` is what the plan's slots hold already, `sources` who can send what (also slots outside the plan); both at
    the step to start from. Transfers come by layer, then target.
    """
    holders = _holders(sources)
    lacking = [
        (slot, layer)
        for stage in plan.stages
        for slot, layer in ((stage.slot, layer) for layer in stage.layers)
        if layer not in held.get(slot, frozenset())
    ]
    wanted = [(layer, slot) for slot, layer in lacking if layer in holders]
    missing = tuple(sorted((slot, layer) for slot, layer in lacking if layer not in holders))
    return _spread(wanted, holders, layer_bytes), missing


def evacuations(staying: Holdings, leaving: Holdings, layer_bytes: Sequence[int]) -> tuple[Transfer, ...]:
    """Transfers after which every layer that a leaving slot holds lies on a staying one too; none where nobody stays.

    Each layer at risk goes, the largest first, to the staying slot that then holds the fewest bytes.
    """
    if not staying:
        return ()
    safe = frozenset().union(*staying.values())
    holders = {layer: slots for layer, slots in _holders(leaving).items() if layer not in safe}
    load = {slot: sum(layer_bytes[layer] for layer in layers) for slot, layers in sorted(staying.items())}
    wanted = []
    for layer in sorted(holders, key=lambda layer: (-layer_bytes[layer], layer)):
        target = min(load, key=lambda slot: (load[slot], slot))
        load[target] += layer_bytes[layer]
        wanted.append((layer, target))
    return _spread(wanted, holders, layer_bytes)


def _holders(sources: Holdings) -> dict[int, tuple[SlotId, ...]]:
    holders: dict[int, list[SlotId]] = {}
    for slot in sorted(sources):
        for layer in sources[slot]:
            holders.setdefault(layer, []).append(slot)
    return {layer: tuple(slots) for layer, slots in sorted(holders.items())}


def _spread(
    wanted: Sequence[tuple[int, SlotId]], holders: Mapping[int, tuple[SlotId, ...]], layer_bytes: Sequence[int]
) -> tuple[Transfer, ...]:
    """A source for each (layer, target): the largest layers first, those with fewest sources first among equals, each
    from the source that has least to send, on the target's own node if that is no busier."""
    load = {slot: 0 for slots in holders.values() for slot in slots}
    sent_by: dict[SlotId, set[tuple[int, SlotId]]] = {slot: set() for slot in load}
    queues = {layer: _Queue(holders[layer], load) for layer in sorted({layer for layer, _ in wanted})}
    for layer, target in sorted(wanted, key=lambda want: (-layer_bytes[want[0]], len(holders[want[0]]), want)):
        source = queues[layer].idlest(target)
        load[source] += layer_bytes[layer]
        sent_by[source].add((layer, target))
    _level(sent_by, load, holders, layer_bytes)
    chosen = sorted((layer, target, source) for source, sent in sent_by.items() for layer, target in sent)
    return tuple(Transfer(layer=layer, source=source, target=target) for layer, target, source in chosen)


class _Queue:
    """Who can send a layer, the one with least to send first. Loads only grow while it is in use."""

    def __init__(self, holders: Sequence[SlotId], load: Mapping[SlotId, int]):
        self._load = load
        self._heap = [(load[slot], slot) for slot in holders]
        heapify(self._heap)
        self._on_node: dict[NodeId, list[SlotId]] = {}
        for slot in holders:
            self._on_node.setdefault(slot.node, []).append(slot)

    def idlest(self, target: SlotId) -> SlotId:
        """Of those with least to send, one on the target's own node first, then the first."""
        while self._heap[0][0] < self._load[self._heap[0][1]]:
            slot = self._heap[0][1]
            heapreplace(self._heap, (self._load[slot], slot))
        least, first = self._heap[0]
        near = (slot for slot in self._on_node.get(target.node, ()) if self._load[slot] == least)
        return next(near, first)


def _level(
    sent_by: dict[SlotId, set[tuple[int, SlotId]]],
    load: dict[SlotId, int],
    holders: Mapping[int, tuple[SlotId, ...]],
    layer_bytes: Sequence[int],
) -> None:
    """Take transfers off the busiest source while one of them leaves another source less busy than it was.

    Greedy choices leave few such. Each round makes the busiest less busy and nobody as busy as it was, so it ends; the
    bound on rounds is for time alone.
    """
    for _ in range(_LEVELLING_ROUNDS_MAX):
        most = max(load.values(), default=None)
        if most is None:
            return
        busiest = min(slot for slot, sending in load.items() if sending == most)
        best: tuple[int, int, SlotId, SlotId] | None = None
        tried: set[int] = set()
        for layer, target in sorted(sent_by[busiest]):
            if layer in tried:
                continue  # Another target of the same layer fares no better.
            tried.add(layer)
            other = min((slot for slot in holders[layer] if slot != busiest), key=load.__getitem__, default=None)
            if other is not None and load[other] + layer_bytes[layer] < load[busiest]:
                option = (load[other] + layer_bytes[layer], layer, target, other)
                best = option if best is None else min(best, option)
        if best is None:
            return
        _, layer, target, other = best
        sent_by[busiest].remove((layer, target))
        sent_by[other].add((layer, target))
        load[busiest] -= layer_bytes[layer]
        load[other] += layer_bytes[layer]
