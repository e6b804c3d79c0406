"""The plain peer of the planner: pipelines of one depth and of equal shares, as many as there are slots for.

As Varuna chooses its layouts (EuroSys '22, section 4.4): of all D x P that fit, the one whose step is the shortest.
"""

from holdfast.planner.cost import pipeline_time, reduction_time
from holdfast.planner.partition import Kind, Partition
from holdfast.planner.request import Request


def grid_step(request: Request, copies: int) -> float:
    """The shortest step of any grid with so many pipelines or more, in the unit of layer_costs; all slots alike."""
    costs, found = request.in_ticks(), []
    partition = Partition(costs, [Kind(1.0, request.memory_per_slot_bytes)], exact=False)
    for pipelines in range(copies, min(len(request.slots), request.blocks) + 1):
        microbatches = -(-request.blocks // pipelines) * request.block_size
        fewest = request.blocks // pipelines * request.block_size
        for depth in range(1, min(len(request.slots) // pipelines, len(costs.compute), fewest) + 1):
            for chain in partition.chains((depth,)):
                ticks = pipeline_time(microbatches, chain.latency, chain.bottleneck)
                found.append(ticks + reduction_time(pipelines, chain.largest))
    return min(found) * costs.tick
