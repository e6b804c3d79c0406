"""What a job would do on so many nodes: the layout that the planner chooses, what a step of it takes, and what becomes
of it on the loss of each node."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Plan
from holdfast.planner import requesting
from holdfast.planner.memory import StageMemory, plan_bytes
from holdfast.planner.profile import Profile
from holdfast.planner.request import Request
from holdfast.planner.search import Decision, plan
from holdfast.planner.timeline import StepEstimate, estimate
from holdfast.planner.transition import Holdings, transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a spec and its Program say to the planner. `cores`: as in `timeline.estimate`."""

    slots: tuple[SlotId, ...]
    blocks: int
    block_size: int
    canonical: bool = True
    depth: int | None = None
    memory_per_slot_bytes: int | None = None
    copies: int = 2
    cores: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of one node. `copies_left`: live ones of the worst-off layer, in different nodes; of the layers `lost` there is
    none, so they come from copies in RAM or a checkpoint. `moved_bytes` reach slots that lack them, in `move_s`.
    `decision` and `step` are None where nothing can go on, for `reason`."""

    node: NodeId
    copies_left: int
    lost: tuple[int, ...]
    decision: Decision | None = None
    step: StepEstimate | None = None
    moved_bytes: int = 0
    move_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """`memory` by rank."""

    decision: Decision
    step: StepEstimate
    memory: tuple[StageMemory, ...]
    losses: tuple[Loss, ...]


def request_of(job: Job, profile: Profile) -> Request:
    """What the planner is asked."""
    return requesting.request_of(
        profile,
        slots=job.slots,
        blocks=job.blocks,
        block_size=job.block_size,
        canonical=job.canonical,
        depth=job.depth,
        memory_per_slot_bytes=job.memory_per_slot_bytes,
        copies=job.copies,
    )


def foresee(job: Job, profile: Profile) -> Foresight:
    """Raises: NoPlanError: the model does not fit into the memory of all slots together."""
    decision = plan(request_of(job, profile))
    nodes = sorted({slot.node for slot in job.slots})
    return Foresight(
        decision=decision,
        step=_step(job, profile, decision.plan),
        memory=plan_bytes(decision.plan, profile, job.block_size, canonical=job.canonical),
        losses=tuple(_loss(job, profile, decision.plan, node) for node in nodes),
    )


def _step(job: Job, profile: Profile, chosen: Plan) -> StepEstimate:
    return estimate(chosen, profile, job.block_size, canonical=job.canonical, cores=job.cores)


def _loss(job: Job, profile: Profile, before: Plan, node: NodeId) -> Loss:
    held = {stage.slot: frozenset(stage.layers) for stage in before.stages if stage.slot.node != node}
    copies = [len({slot.node for slot, layers in held.items() if n in layers}) for n in range(before.layer_count)]
    loss = Loss(node=node, copies_left=min(copies), lost=tuple(n for n, count in enumerate(copies) if not count))
    try:
        rest = replace(job, slots=tuple(slot for slot in job.slots if slot.node != node))
        decision = plan(replace(request_of(rest, profile), held=held))
    except NoPlanError as error:
        return replace(loss, reason=str(error))
    moves = moves_to(decision.plan, profile, held)
    return replace(
        loss,
        decision=decision,
        step=_step(job, profile, decision.plan),
        moved_bytes=sum(size for _, _, size in moves.sent) + sum(size for _, size in moves.fetched),
        move_s=move_seconds(profile, moves.sent, moves.fetched),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What slots of a plan lack: `sent` by live slots (source, target, bytes), `fetched` elsewhere (target, bytes)."""

    sent: tuple[tuple[SlotId, SlotId, int], ...]
    fetched: tuple[tuple[SlotId, int], ...]


def moves_to(chosen: Plan, profile: Profile, held: Holdings) -> Moves:
    """From where slots hold these layers."""
    size = tuple(layer.state_bytes for layer in profile.layers)
    moves, missing = transfers(chosen, held, held, size)
    return Moves(
        sent=tuple((move.source, move.target, size[move.layer]) for move in moves),
        fetched=tuple((slot, size[layer]) for slot, layer in missing),
    )


def move_seconds(
    profile: Profile, sent: Iterable[tuple[SlotId, SlotId, int]], fetched: Iterable[tuple[SlotId, int]]
) -> float:
    """From when layers begin to move to when all are there: what the busiest node or slot sends, or gets, a message
    after another. `sent`: source, target, bytes; `fetched` comes from another node's RAM or a checkpoint, at best as
    fast as between nodes."""
    busy: dict[tuple[str, object], float] = {}
    for source, target, size in sent:
        near = source.node == target.node
        for way, slot in (("out", source), ("in", target)):
            _add(
                busy, (f"{way} within", slot) if near else (way, slot.node), profile.link(source, target).seconds(size)
            )
    for target, size in fetched:
        _add(busy, ("in", target.node), profile.between_nodes.seconds(size))
    return max(busy.values(), default=0.0)


def _add(busy: dict[tuple[str, object], float], key: tuple[str, object], seconds: float) -> None:
    busy[key] = busy.get(key, 0.0) + seconds
