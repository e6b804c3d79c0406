"""When each stage of a pipeline computes what: 1F1B as torch.distributed.pipelining runs it (Schedule1F1B).

Stage s of d does d - s forwards, then a backward and a forward in turns, then the backwards that are left (PipeDream,
SOSP '19; PipeDream-Flush, ICML '21). Neighbours exchange what they made between two computations, each blocking until
the other is there: a message never travels while its receiver computes, so links cost time however fast they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one microbatch: a stage's forward and backward, and what crosses from it to the next one or back."""

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    boundary_s: tuple[float, ...]  # one less than stages

    @property
    def depth(self) -> int:
        return len(self.forward_s)


@dataclass(frozen=True, slots=True)
class Run:
    """Start of each computation by stage, then microbatch; `end_s`: when each stage has sent its last gradient."""

    forwards: tuple[Sequence[float], ...]
    backwards: tuple[Sequence[float], ...]
    end_s: tuple[float, ...]


def warm_up(depth: int, stage: int) -> int:
    """Forwards of a stage before its first backward, which is the number of microbatches it ever has in flight."""
    return depth - stage


def run(pace: Pace, microbatches: int, begin_s: Sequence[float]) -> Run:
    """The whole step of a pipeline whose stages are ready at `begin_s`; with at least as many microbatches as stages,
    as 1F1B asks for."""
    depth = pace.depth
    assert microbatches >= depth, f"{microbatches} microbatches for {depth} stages"
    forwards: tuple[list[float], ...] = tuple([] for _ in range(depth))
    backwards: tuple[list[float], ...] = tuple([] for _ in range(depth))
    ready = _fill(pace, begin_s, forwards)
    end_s = _turns(pace, microbatches, ready, forwards, backwards)
    return Run(forwards, backwards, tuple(end_s))


def _fill(pace: Pace, begin_s: Sequence[float], forwards: tuple[list[float], ...]) -> list[float]:
    """The warm-up; when each stage is ready for its first backward."""
    depth = pace.depth
    free, sent = list(begin_s), [0.0] * depth
    posted, ready = [0.0] * depth, [0.0] * depth
    for microbatch in range(depth):
        for stage in range(depth - microbatch):
            start = free[stage]
            if stage:
                # Both are there, then it travels. The sender waits for this before it sends the next one.
                start = max(start, posted[stage - 1]) + pace.boundary_s[stage - 1]
                sent[stage - 1] = start
            forwards[stage].append(start)
            after = max(start + pace.forward_s[stage], sent[stage])
            free[stage] = posted[stage] = ready[stage] = after
    return ready


def _turns(
    pace: Pace,
    microbatches: int,
    ready: list[float],
    forwards: tuple[list[float], ...],
    backwards: tuple[list[float], ...],
) -> list[float]:
    """Backwards and forwards in turns, then the backwards that are left; when each stage is done."""
    last = pace.depth - 1
    forward_s, backward_s, boundary_s = pace.forward_s, pace.backward_s, pace.boundary_s
    sent = [0.0] * pace.depth  # when the stage before had this stage's last gradient
    done = [0.0] * pace.depth
    for _ in range(microbatches):
        start = ready[last]
        for stage in range(last, -1, -1):
            backwards[stage].append(start)
            end = start + backward_s[stage]
            if end < sent[stage]:
                end = sent[stage]
            after = end
            if stage:
                # What the stage before sends meanwhile, its next activation, crosses at the same time.
                before = ready[stage - 1]
                after = (before if before > end else end) + boundary_s[stage - 1]
                sent[stage] = done[stage] = start = after
            else:
                done[stage] = end
            if len(forwards[stage]) < microbatches:
                forwards[stage].append(after)
                ready[stage] = after + forward_s[stage]
            else:
                ready[stage] = end  # of the gradients that are left, the next is awaited from here on
    return done
