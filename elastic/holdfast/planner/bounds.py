"""What no layout can do better than: tells how far a plan for many slots may be from the best there is.

Not for the way of a recovery: the planner does not need it.
"""

from collections.abc import Mapping

from holdfast.planner.cost import at_speed, reduction_time
from holdfast.planner.partition import Kind, Partition
from holdfast.planner.request import Request

_PRECISION_BITS = 16


def lower_bound(request: Request, copies: int = 1) -> float:
    """No layout with so many copies has a shorter step; in the unit of layer_costs. Something must fit into memory.

    As if every slot were as fast and as large as the best, and latency that of the model on one: then the fewest ticks
    in which a knapsack of depths holds all blocks. Where slots differ, also the ticks that all speeds together need.
    """
    costs, slots = request.in_ticks(), len(request.slots)
    fastest = max(map(request.speed, request.slots))
    bottlenecks = _bottlenecks(request, fastest)
    latency = sum(at_speed(ticks, fastest) for ticks in costs.compute) + costs.stage + costs.load
    pipelines = min(slots // min(bottlenecks), request.blocks)
    # A pipeline finishes at most 1 + (ticks - latency) * rate microbatches, and all rates are at most speeds / work.
    rate = sum(map(request.speed, request.slots)) / sum(costs.compute)
    ticks = latency + (request.blocks * request.block_size - pipelines) / rate
    ticks = max(ticks, _packed(request, bottlenecks, latency))
    # Of so many pipelines or more the shallowest has at most so many stages, and one of them most gradients.
    depth = min(slots // copies, len(costs.compute))
    largest = max(max(costs.gradients), -(-sum(costs.gradients) // depth))
    return (ticks + reduction_time(copies, largest)) * costs.tick


def _bottlenecks(request: Request, fastest: float) -> dict[int, int]:
    """The least of any pipeline, by depth."""
    memory = [request.memory(slot) for slot in request.slots]
    roomiest = None if None in memory else max(m for m in memory if m is not None)
    ideal = Partition(request.in_ticks(), [Kind(fastest, roomiest)], exact=False)
    deepest = min(len(request.slots), ideal.layers, request.blocks * request.block_size)
    return {depth: chains[0].bottleneck for depth in range(1, deepest + 1) if (chains := ideal.chains((depth,)))}


def _packed(request: Request, bottlenecks: Mapping[int, int], latency: int) -> int:
    """Rounded down."""
    size, slots = request.block_size, len(request.slots)

    def blocks_within(ticks: int) -> int:
        items: list[tuple[int, int]] = []
        for depth, bottleneck in bottlenecks.items():
            blocks = ((ticks - latency) // bottleneck + 1) // size
            if blocks * size >= depth and (not items or blocks > items[-1][1]):
                items.append((depth, blocks))
        most = [0] * (slots + 1)
        for room in range(1, slots + 1):
            most[room] = max([most[room - 1], *(most[room - d] + blocks for d, blocks in items if d <= room)])
        return most[-1]

    low, high = latency - 1, latency + request.blocks * size * max(bottlenecks.values())
    while high - low > high >> _PRECISION_BITS:
        middle = (low + high) // 2
        low, high = (low, middle) if blocks_within(middle) >= request.blocks else (middle, high)
    return low
