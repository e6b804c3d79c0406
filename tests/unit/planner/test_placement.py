"""Who takes which place."""

from itertools import pairwise

from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Span
from holdfast.planner.assignment import assign
from holdfast.planner.placement import place
from holdfast.planner.site import Place, Site


def slots_of(**counts: int) -> tuple[SlotId, ...]:
    return tuple(SlotId(NodeId(node), index) for node, count in sorted(counts.items()) for index in range(count))


def site(
    slots: tuple[SlotId, ...], pipelines: list[list[int]], held: dict[SlotId, frozenset[int]], copies: int = 2
) -> Site:
    places = tuple(
        Place(number, Span(start, stop), 0)
        for number, bounds in enumerate(pipelines)
        for start, stop in pairwise(bounds)
    )
    return Site(
        places=places,
        groups=(slots,),
        domains={slot: slot.node for slot in slots},
        held=held,
        layer_bytes=(10,) * pipelines[0][-1],
        copies=copies,
    )


def test_a_slot_keeps_the_stage_it_holds() -> None:
    slots = slots_of(a=1, b=1, c=1, d=1)
    low, high = frozenset({0, 1}), frozenset({2, 3})
    held = dict(zip(slots, (high, low, low, high), strict=True))

    placement = place(site(slots, [[0, 2, 4], [0, 2, 4]], held))

    assert placement.moved_bytes == 0
    assert [held[slot] for slot in placement.slots] == [low, high, low, high]


def test_neighbouring_stages_share_a_node() -> None:
    placement = place(site(slots_of(a=2, b=2), [[0, 2, 4], [0, 2, 4]], {}))

    assert [slot.node for slot in placement.slots] == ["a", "a", "b", "b"]


def test_copies_lie_on_different_nodes_even_where_bytes_would_say_otherwise() -> None:
    slots = slots_of(a=2, b=2)
    # Both slots of node a hold the first half, so staying put would leave that half on one node alone.
    held = {slots[0]: frozenset({0, 1}), slots[1]: frozenset({0, 1}), slots[2]: frozenset({2, 3})}

    placement = place(site(slots, [[0, 2, 4], [0, 2, 4]], held))

    assert placement.copies == 2
    assert placement.moved_bytes == 40


def test_the_slot_that_holds_nothing_is_the_one_left_idle() -> None:
    slots = slots_of(a=1, b=1, c=1)
    held = {slots[1]: frozenset({0, 1}), slots[2]: frozenset({0, 1})}

    assert set(place(site(slots, [[0, 2], [0, 2]], held)).slots) == {slots[1], slots[2]}


def test_large_assignments_are_solved_too() -> None:
    size = 300
    columns = assign([[abs(row + 7 - column) % size for column in range(size)] for row in range(size - 7)])

    assert columns == tuple(range(7, size))
