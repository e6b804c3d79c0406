"""Why nothing commits in two generations at once.

A step of generation g is committed by a vote of every worker in its plan. A worker that has answered a later stop, or
is dead, never votes in g again. So g is over for good once one of its voters is known to have stopped: then, and only
then, a later generation starts. The coordinator need not know who; any one of them will do.

What is known: an inventory for a later generation (the worker has parked); its agent said that it died; its agent's
port refuses connections (workers die with their agent, the kernel sees to it); an agent that answers without it.

Where all voters are silent (cut off, frozen, without power) nothing is known, and they may be training still. Then the
coordinator waits for `orphan_s`, from when it found this out, plus a margin for clocks that run at different rates.
An agent whose lease was not renewed for `orphan_s` of its own time, suspended time included, stops its workers, and a
worker casts no vote, and applies none, once its agent's last word on that is as old (`worker.permit`). A lease is
renewed before its keys are deleted, and they are deleted before a coordinator finds them gone, so the voters stop
first. No two clocks are compared, only lengths of time.

The price: a store that is away for longer than `orphan_s` pauses training, and a job that lost all voters at once,
without a word, waits as long before it goes on from older copies. A shorter outage stops nothing.
"""

from holdfast.control.view import View
from holdfast.model.ids import WorkerId

# Clocks of two machines run at rates that differ by less than this, and an agent looks at its own so often.
_DRIFT = 1.12
_MARGIN_S = 5.0


def is_over(view: View) -> bool:
    """Whether the newest plan that was started can commit nothing any more."""
    assert view.generation is not None
    voters = view.generation.voters
    if not voters:
        return True
    parked = {inventory.worker for ack in view.stopped.values() for inventory in ack.inventory}
    stopped = parked | view.roster.died.keys() | view.roster.dead
    return any(worker in stopped for worker in voters)


def voters_after(view: View) -> tuple[WorkerId, ...]:
    """Of whom one must be known to have stopped before the generation after the present one starts."""
    if view.generation is None:
        return ()
    if view.start is None:
        return () if is_over(view) else view.generation.voters
    slots = frozenset(view.start.plan.slots) if view.start.plan is not None else frozenset()
    return tuple(ref.worker for ref in view.members if ref.slot in slots)


def patience_s(orphan_s: float) -> float:
    """How long a coordinator waits for a word of the voters."""
    return orphan_s * _DRIFT + _MARGIN_S
