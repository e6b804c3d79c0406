"""What each slot of a plan does in a step, operation by operation, for `crowding.simulate`: worker/step.py and torch's
Schedule1F1B, with every message and every wait of theirs."""

from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.planner.crowding import Meeting, Operation, Post, Task, Wait, Work
from holdfast.planner.schedule import Pace, warm_up
from holdfast.planner.step_costs import StepCosts


def programs(costs: StepCosts) -> Iterator[Iterator[Operation]]:
    """By rank."""
    for number, ranks in enumerate(costs.ranks_of):
        for stage, rank in enumerate(ranks):
            yield _program(costs, number, stage, rank)


def _program(costs: StepCosts, pipeline: int, stage: int, rank: int) -> Iterator[Operation]:
    yield Task(Work.LOAD, costs.load_s[rank])
    yield from _one_forward_one_backward(_Stage(costs, pipeline, stage), len(costs.microbatches[pipeline]))
    for number, segment in enumerate(costs.plan.reduction_order):
        if rank in segment.ranks:
            yield from _meet(Meeting(("segment", number), len(segment.ranks), 0.0))
            yield Task(Work.REDUCE, costs.reduce_s[number])
    yield from _meet(Meeting("vote", len(costs.plan.slots), 0.0))
    yield Task(Work.REST, costs.fixed_s)
    yield Task(Work.UPDATE, costs.update_s[rank])


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage's computations, and its messages to and from its neighbours, by the pipeline's microbatch."""

    costs: StepCosts
    pipeline: int
    number: int

    @property
    def pace(self) -> Pace:
        return self.costs.paces[self.pipeline]

    def forward(self, microbatch: int) -> Task:
        return Task(Work.FORWARD, self.pace.forward_s[self.number], self._global(microbatch))

    def backward(self, microbatch: int) -> Task:
        return Task(Work.BACKWARD, self.pace.backward_s[self.number], self._global(microbatch))

    def activation(self, microbatch: int, boundary: int) -> tuple[Meeting, ...]:
        """What crosses the boundary after stage `boundary` on its way forward; nothing at either end."""
        return self._message(Work.FORWARD, microbatch, boundary)

    def gradient(self, microbatch: int, boundary: int) -> tuple[Meeting, ...]:
        return self._message(Work.BACKWARD, microbatch, boundary)

    def _message(self, work: Work, microbatch: int, boundary: int) -> tuple[Meeting, ...]:
        if not 0 <= boundary < self.pace.depth - 1:
            return ()
        return (Meeting((work, self.pipeline, boundary, microbatch), 2, self.pace.boundary_s[boundary]),)

    def _global(self, microbatch: int) -> int:
        return self.costs.microbatches[self.pipeline].start + microbatch


def _one_forward_one_backward(stage: _Stage, microbatches: int) -> Iterator[Operation]:
    before, after = stage.number - 1, stage.number
    forwards = warm_up(stage.pace.depth, stage.number)
    sending: tuple[Meeting, ...] = ()
    for microbatch in range(forwards):
        yield from _meet(*stage.activation(microbatch, before))
        yield stage.forward(microbatch)
        yield Wait(sending)
        sending = stage.activation(microbatch, after)
        if microbatch < forwards - 1:
            yield from map(Post, sending)
    for microbatch in range(microbatches):
        yield from _meet(*sending, *stage.gradient(microbatch, after))
        yield stage.backward(microbatch)
        made = stage.gradient(microbatch, before)
        if forwards == microbatches:
            # Nothing is fused with the gradients that are left.
            yield from _left(stage, microbatch, microbatches, made)
            return
        yield from _meet(*made, *stage.activation(forwards, before))
        yield stage.forward(forwards)
        sending = stage.activation(forwards, after)
        forwards += 1


def _left(stage: _Stage, done: int, microbatches: int, sending: tuple[Meeting, ...]) -> Iterator[Operation]:
    """After the last forward and the backward of `done`."""
    yield from map(Post, sending)
    for microbatch in range(done + 1, microbatches):
        yield from _meet(*stage.gradient(microbatch, stage.number))
        yield stage.backward(microbatch)
        yield Wait(sending)
        sending = stage.gradient(microbatch, stage.number - 1)
        yield from map(Post, sending)
    yield Wait(sending)


def _meet(*meetings: Meeting) -> Iterator[Operation]:
    yield from map(Post, meetings)
    yield Wait(meetings)
