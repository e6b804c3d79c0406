"""What a generation does once everyone has stopped and said what it holds."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from holdfast.control.choosing import choose_plan
from holdfast.control.job import Job
from holdfast.control.recovery import Basis, Lineage, LostLayers, choose_basis, extend_lineage, lasting_in_ram, step_s
from holdfast.control.view import View
from holdfast.errors import NoPlanError
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.plan import Plan
from holdfast.model.records import Action, Cause, Restore, StartRecord, Transfer
from holdfast.planner.hazard import Outlook
from holdfast.planner.transition import Holdings, evacuations, transfers


def decide_start(job: Job, view: View, lineage: Lineage, outlook: Outlook) -> StartRecord | LostLayers:
    """Called when `view.is_stopped`."""
    generation = view.generation
    assert generation is not None and view.is_stopped
    basis = choose_basis(view.inventories, lineage, job.layer_count, view.committed_step, view.told, view.stored)
    if isinstance(basis, LostLayers):
        return basis
    decided = _decide(job, view, basis, outlook)
    history = extend_lineage(lineage, generation.number, basis.version.step)
    lasting = lasting_in_ram(view.stored, history, job.layer_count, basis.version)
    return replace(
        decided,
        kept=lasting.kept,
        spare=lasting.spare,
        checkpoint=basis.checkpoint,
        checkpoint_step=view.catalogue.step_before(basis.version.step),
        urgent=job.has_checkpoints and not basis.checkpoint and not basis.initialise and is_urgent(job, view, decided),
    )


def worth_waiting_s(job: Job, view: View, start: StartRecord) -> float:
    """A node that fell silent may come back with newer state than what is left, and so may one whose workers died: what
    its agent has in RAM is heard of once a worker is warm again, and a member. They are worth as long a wait as doing
    those steps again would take; 0: there is nobody to wait for."""
    lost = view.committed_step - start.version.step
    if lost <= 0:
        return 0.0
    is_silent = view.unheard.holders_since_s(range(job.layer_count)) is not None
    is_new = any(ref.slot.node not in view.member_nodes for ref in view.strangers)
    return lost * step_s(view.inventories) if is_silent or is_new or view.roster.bereft else 0.0


def is_urgent(job: Job, view: View, start: StartRecord) -> bool:
    """Whether state goes to the remote tier before anything else: the job pauses, or the last nodes leave."""
    return start.action is Action.HOLD and (bool(view.draining) or len(view.nodes) < job.nodes_min)


def _decide(job: Job, view: View, basis: Basis, outlook: Outlook) -> StartRecord:
    generation = view.generation
    assert generation is not None
    finishing = generation.cause is Cause.STOP or view.stop_reason is not None
    # Where only the weights are left to write any node will do, also one that leaves.
    writing = finishing or basis.version.step >= job.steps
    staying = _staying(job, view)
    if writing and not staying:
        staying = tuple(ref.slot for ref in view.members if ref.slot.node in view.nodes)
    enough = len({slot.node for slot in staying}) >= (1 if writing else job.nodes_min)
    if not enough:
        nodes = len({slot.node for slot in staying})
        reason = f"nodes.min: {job.nodes_min} nodes are needed and {nodes} can train; waiting for more"
        return _hold(job, generation.number, basis, staying, reason)
    try:
        decision = choose_plan(job, view, basis, staying, outlook)
    except NoPlanError as error:  # held, as below the minimum: another node may make it fit
        return _hold(job, generation.number, basis, staying, f"{error}; waiting for more nodes")
    moves, restores = _sources(decision.plan, basis, job.layer_bytes)
    action = Action.FINISH if finishing else Action.TRAIN
    record = _record(generation.number, action, basis, decision.plan, moves, decision.reasons)
    return replace(record, restores=restores)


def _sources(
    chosen: Plan, basis: Basis, layer_bytes: Sequence[int]
) -> tuple[tuple[Transfer, ...], tuple[Restore, ...]]:
    """Where each slot gets the layers it lacks: from its own node's RAM, else from a live replica, else from other
    nodes' RAM, the least asked first, or the checkpoint."""
    at_hand: Holdings = {
        slot: frozenset(layer for layer, nodes in basis.in_ram.items() if slot.node in nodes) for slot in chosen.slots
    }
    held = {slot: basis.held.get(slot, frozenset()) for slot in chosen.slots}
    moves, missing = transfers(
        chosen, {slot: layers | at_hand[slot] for slot, layers in held.items()}, basis.held, layer_bytes
    )
    near = [
        (stage.slot, layer) for stage in chosen.stages for layer in stage.layers
        if layer in at_hand[stage.slot] and layer not in held[stage.slot]
    ]  # fmt: skip
    restores = [Restore(layer=layer, target=slot, sources=(slot.node,)) for slot, layer in near]
    asked: dict[NodeId, int] = {}
    for slot, layer in missing:
        nodes = basis.in_ram.get(layer, ())
        if not nodes and not basis.checkpoint:
            continue  # made from the seed
        sources = tuple(sorted(nodes, key=lambda node: (asked.get(node, 0), node)))
        if sources:
            asked[sources[0]] = asked.get(sources[0], 0) + layer_bytes[layer]
        restores.append(Restore(layer=layer, target=slot, sources=sources))
    return moves, tuple(sorted(_with_others(basis, restores), key=lambda restore: (restore.layer, restore.target)))


def _with_others(basis: Basis, restores: Sequence[Restore]) -> Iterator[Restore]:
    """Where the first copy turns out corrupt the others are asked."""
    for restore in restores:
        others = (node for node in basis.in_ram.get(restore.layer, ()) if node not in restore.sources)
        yield replace(restore, sources=(*restore.sources, *others))


def _hold(job: Job, number: int, basis: Basis, staying: tuple[SlotId, ...], reason: str) -> StartRecord:
    """Nobody trains: bring what the leaving ones hold to safety, out of their RAM too, and wait."""
    safe = {slot: basis.held.get(slot, frozenset()) for slot in staying}
    leaving = {slot: layers for slot, layers in basis.held.items() if slot not in safe}
    moves = evacuations(safe, leaving, job.layer_bytes) if safe else ()
    record = _record(number, Action.HOLD, basis, None, moves, (reason,))
    return replace(record, restores=_rescues(basis, staying)) if not basis.checkpoint else record


def _rescues(basis: Basis, staying: tuple[SlotId, ...]) -> tuple[Restore, ...]:
    """Of layers that no worker holds and only the RAM of leaving nodes has: to the staying slots in turn."""
    live, nodes = frozenset[int]().union(*basis.held.values()), {slot.node for slot in staying}
    at_risk = [layer for layer, holders in basis.in_ram.items() if layer not in live and nodes.isdisjoint(holders)]
    return tuple(
        Restore(layer=layer, target=staying[turn % len(staying)], sources=basis.in_ram[layer])
        for turn, layer in enumerate(at_risk)
        if staying
    )


def _record(
    number: int,
    action: Action,
    basis: Basis,
    chosen: Plan | None,
    moves: tuple[Transfer, ...],
    reasons: tuple[str, ...],
) -> StartRecord:
    return StartRecord(
        generation=number,
        action=action,
        version=basis.version,
        plan=chosen,
        transfers=moves,
        roll_forward=basis.roll_forward,
        redone_steps=basis.redone_steps,
        initialise=basis.initialise,
        reasons=reasons,
    )


def _staying(job: Job, view: View) -> tuple[SlotId, ...]:
    """Slots that may train: not leaving, and of no more nodes than the job wants; nodes that hold layers first."""
    assert view.generation is not None
    # A member may be released, and even gone, where a leader that stood still hears of the end of its term too late.
    staying = {ref.slot.node for ref in view.live}.difference(view.draining)
    slots = [ref.slot for ref in view.members if ref.slot.node in staying]
    nodes = sorted({slot.node for slot in slots}, key=lambda node: (not _holds_layers(view, node), node))
    allowed = frozenset(nodes[: job.nodes_max])
    return tuple(slot for slot in slots if slot.node in allowed)


def _holds_layers(view: View, node: NodeId) -> bool:
    return any(inventory.layers for inventory in view.stopped[node].inventory)
