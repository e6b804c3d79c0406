"""Layouts as the real planner chooses them, and what its timeline says of a step: for jobs with a profile."""

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.planner.foresight import Job
from holdfast.planner.profile import Profile
from holdfast.planner.requesting import request_of
from holdfast.planner.search import plan
from holdfast.planner.timeline import estimate
from holdfast.simulator.replay.yields import NOTHING, Depths, Layout


class Planned:
    """One layout for each number of nodes, a slot each: `planner.search` asked as a coordinator asks it, for nodes that
    hold nothing yet. Which are near is which it would choose for fewer nodes."""

    def __init__(self, job: Job, profile: Profile, global_batch: int) -> None:
        self.global_batch = global_batch
        self._job, self._profile = job, profile
        self._known: dict[int, Layout] = {}

    def best(self, nodes: int) -> Layout:
        """Of what the planner chooses for so many nodes or fewer: more of them may be slower, when links are."""
        return min(self.near(nodes, nodes), key=lambda one: -one.rate, default=NOTHING)

    def chosen(self, nodes: int) -> Layout:
        """What the planner chooses for just so many: it wants its copies before its speed."""
        if nodes not in self._known:
            self._known[nodes] = self._planned(nodes)
        return self._known[nodes]

    def near(self, nodes: int, count: int) -> tuple[Layout, ...]:
        found = dict.fromkeys(self.chosen(fewer) for fewer in range(nodes, max(0, nodes - count), -1))
        found.pop(NOTHING, None)
        return tuple(sorted(found, key=lambda one: (-one.rate, one.nodes)))

    def of(self, depths: Depths) -> Layout | None:
        layout = self.chosen(sum(depths)) if depths else NOTHING
        return layout if layout.depths == depths else None

    def _planned(self, nodes: int) -> Layout:
        slots = tuple(SlotId(NodeId(f"node-{number:06d}"), 0) for number in range(nodes))
        job = self._job
        try:
            request = request_of(
                self._profile,
                slots=slots,
                blocks=job.blocks,
                block_size=job.block_size,
                canonical=job.canonical,
                depth=job.depth,
                memory_per_slot_bytes=job.memory_per_slot_bytes,
                copies=job.copies,
            )
            chosen = plan(request).plan
        except NoPlanError:
            return NOTHING
        step = estimate(chosen, self._profile, job.block_size, canonical=job.canonical, cores=job.cores)
        depths = tuple(sorted((pipeline.depth for pipeline in chosen.pipelines), reverse=True))
        return Layout(depths=depths, rate=self.global_batch / step.seconds)
