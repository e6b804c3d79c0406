"""What a fake agent holds besides live state: mirror of holdfast.agent.tiers, .peer_tier, .fetching and .uploading.

Each `can_*` says whether an action is possible, the other does it: one layer fetched, one question to a peer, one layer
pulled, one share uploaded. Which copies go follows from the real rules.
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.model.ids import NodeId
from holdfast.model.messages import Copied, Restored, SnapshotBegun, Snapshotted, Spoilt, ToWorker, Uploaded
from holdfast.model.records import (
    AgentRef,
    GenerationRecord,
    Restore,
    SnapshotInventory,
    StartRecord,
    Version,
)
from holdfast.simulator.buffers import Buffer, Pair, pair
from holdfast.simulator.ram import Copy, Ram
from holdfast.simulator.storage import StorageAwayError
from holdfast.simulator.uploads import Uploads
from holdfast_checkpoint.placement import Placement, peer_copies, upload_shares
from holdfast_checkpoint.sparing import (
    FETCHED,
    OWN,
    PEER,
    Spare,
    newest_whole,
    outlives_arrival,
    outlives_change,
    outlives_overwriting,
    outlives_start,
    said_to_hold,
    spared_at_arrival,
)

if TYPE_CHECKING:
    from holdfast.simulator.agent import Agent
    from holdfast.simulator.world import World


@dataclass(slots=True)
class _Following:
    """Of one source: what it told last, and what of that is still to be pulled."""

    layers: frozenset[int]
    version: Pair | None = None
    kept: Pair | None = None
    left: list[int] = field(default_factory=list)
    has_room: bool = False  # for the first of these


class Tiers:
    """One an agent."""

    def __init__(self, world: "World", agent: "Agent") -> None:
        self._world, self._agent = world, agent
        self.kept: Pair | None = None  # as peers are told
        self.copied: dict[NodeId, tuple[str, Pair, frozenset[int]]] = {}  # what peers say that they hold
        self.ram = Ram()
        self._uploads = Uploads(world, agent.node, self._sound, lambda report: agent.carry_out([report]))
        self._start: StartRecord | None = None
        self._spare: Spare | None = None
        self._taken: dict[int, Snapshotted] = {}
        self._unsound: set[str] = set()
        self._agents: dict[NodeId, AgentRef] = {}
        self._placement = Placement()
        self._followed: dict[NodeId, _Following] = {}
        self._wanted: deque[tuple[Restore, ...]] = deque()  # of one layer each, still to be fetched
        self._lost: list[int] = []
        self._waits = False

    # What its workers and the store say.

    def snapshot_said(self, index: int, message: SnapshotBegun | Snapshotted) -> None:
        if isinstance(message, SnapshotBegun):
            self._begun(index, message.kept)
        else:
            self._adopt(index, message)
        self._changed()

    def tend(self, generation: GenerationRecord, start: StartRecord) -> None:
        """A generation starts."""
        self._start, self._waits = start, False
        mine: dict[int, list[Restore]] = {}
        for restore in start.restores:
            if restore.target.node == self._agent.node:
                mine.setdefault(restore.layer, []).append(restore)
        self._wanted, self._lost = deque(map(tuple, mine.values())), []
        self._spare = None
        if start.spare is not None:
            self._spare = Spare(version=pair(start.spare), generation=start.generation)
        lasting = [pair(version) for version in (start.version, start.kept, start.spare) if version is not None]
        self.ram.keep_only(lambda copy: outlives_start(copy, lasting, start.generation))
        self._place(generation, start)
        self._tell_copied()
        if start.urgent and self._world.storing.checkpoints:
            self._uploads.wish(start.version, self.ram.versions().get(pair(start.version), set()))
        self._changed()

    def _begun(self, index: int, kept: Version | None) -> None:
        start = self._start
        held = start.version if start is not None and start.plan is None else None
        spared = [pair(version) if version is not None else None for version in (kept, held)]
        self.ram.keep_only(lambda copy: outlives_overwriting(copy, f"{OWN}:{index}", *spared))
        if kept is not None:
            self._spare = None
            self._keep(pair(kept))

    def _adopt(self, index: int, message: Snapshotted) -> None:
        worker, version = self._agent.workers.get(index), message.version
        alive = worker is not None and worker.alive
        buffers = [worker.buffers.find(blob.layer, version) if worker else None for blob in message.blobs]
        if not alive or None in buffers:  # it died in this moment, or goes on already
            self._tell(index, Spoilt(version=version))
            self._tell(index, Uploaded(version=version))
            return
        for blob, buffer in zip(message.blobs, buffers, strict=True):
            assert buffer is not None
            self.ram.add(Copy(blob.layer, pair(version), f"{OWN}:{index}", buffer))
        self._taken[index] = message
        self._tell_copied()
        if message.for_checkpoint:
            share = self._share()
            layers = [blob.layer for blob in message.blobs if share is None or blob.layer in share]
            self._uploads.wish(version, layers, message.loss, lambda: self._tell(index, Uploaded(version=version)))

    def _place(self, generation: GenerationRecord, start: StartRecord) -> None:
        before = {(agent.node, agent.incarnation) for agent in self._agents.values()}
        self._agents = {agent.node: agent for agent in generation.agents}
        gone = before - {(agent.node, agent.incarnation) for agent in self._agents.values()}
        self.copied = {node: held for node, held in self.copied.items() if (node, held[0]) not in gone}
        self._placement, plan = Placement(), start.plan
        if plan is not None:
            holders = self._holders()
            domains = {str(agent.node): agent.domain for agent in generation.agents if agent.node in plan.nodes}
            self._placement = peer_copies(holders, domains, self._world.job.layer_bytes, self._world.job.copies)
        wanted = {NodeId(n): frozenset(ls) for n, ls in self._placement.pulled_by(self._agent.node).items() if ls}
        before_followed = self._followed
        self._followed = {
            node: known if (known := before_followed.get(node)) is not None and known.layers == layers
            else _Following(layers)
            for node, layers in wanted.items()
        }  # fmt: skip
        if start.kept is not None:
            self._keep(pair(start.kept))

    def _holders(self) -> dict[int, list[str]]:
        plan = self._start.plan if self._start is not None else None
        assert plan is not None
        return {n: [str(plan.slots[rank].node) for rank in plan.holders(n)] for n in range(plan.layer_count)}

    def _share(self) -> frozenset[int] | None:
        if self._start is None or self._start.plan is None:
            return None
        return frozenset(upload_shares(self._holders(), self._world.job.layer_bytes).get(self._agent.node, ()))

    def _keep(self, kept: Pair) -> None:
        self.kept = kept
        self._forget_unwanted(kept)

    def _forget_unwanted(self, kept: Pair) -> None:
        wanted = frozenset[int]().union(*(following.layers for following in self._followed.values()))
        self.ram.keep_only(lambda copy: outlives_change(copy, wanted, kept, self._spare))

    def _tell_copied(self) -> None:
        if self._start is None:
            return
        for index, message in sorted(self._taken.items()):
            layers = tuple(sorted(blob.layer for blob in message.blobs))
            if self._is_copied(pair(message.version), layers):
                copied = Copied(generation=self._start.generation, version=message.version, layers=layers)
                self._tell(index, copied)

    def _is_copied(self, version: Pair, layers: Collection[int]) -> bool:
        for target, wanted in self._placement.pulled_from(self._agent.node).items():
            _, held, of = self.copied.get(NodeId(target), ("", None, frozenset()))
            if any(layer in layers and not (held == version and layer in of) for layer in wanted):
                return False
        return True

    # What its workers lack.

    def can_fetch(self) -> bool:
        if not self._agent.active or not self._wanted:
            return False
        # A storage that is away is waited for, and that is said once.
        return not (self._waits and self._world.storage.away)

    def fetch(self) -> str:
        start, restores = self._start, self._wanted.popleft()
        assert start is not None
        layer = restores[0].layer
        try:
            found, source = self._fetch(restores[0], start)
        except StorageAwayError:
            self._wanted.appendleft(restores)
            self._say_waits("the storage is away")
            return f"waits for the storage with layer {layer}"
        if self._waits:
            self._say_waits("")
        if found is None:
            self._lost.append(layer)
        else:
            for restore in restores:
                path = str(found.buffer.state)
                message = Restored(generation=start.generation, layer=layer, path=path, source=source)
                self._tell(restore.target.index, message)
        self._changed()
        if self._lost and not self._wanted:
            self._agent.carry_out(self._agent.member.restore_failed(start.generation, f"layers {self._lost} are lost"))
        return f"fetches layer {layer} at {pair(start.version)}: {source or 'nowhere'}"

    def _fetch(self, restore: Restore, start: StartRecord) -> tuple[Copy | None, str]:
        layer, version = restore.layer, pair(start.version)
        if (copy := self._sound(layer, version)) is not None:
            return copy, str(self._agent.node)
        for node in restore.sources:
            peer = self._peer(node) if node != self._agent.node else None
            if peer is not None and (given := peer.tiers.give(layer, version)) is not None:
                return self.ram.receive(layer, version, given.state, FETCHED), str(node)
        if start.checkpoint:
            state = self._world.storage.read(start.checkpoint, layer)
            if state is not None:
                return self.ram.receive(layer, version, state, FETCHED), "checkpoint"
            self._unsound.add(start.checkpoint)
        return None, ""

    def give(self, layer: int, version: Pair) -> Buffer | None:
        """To a peer: a copy that is sound; what turns out not to be is dropped."""
        copy = self._sound(layer, version)
        return copy.buffer if copy is not None else None

    def _sound(self, layer: int, version: Pair) -> Copy | None:
        for copy in self.ram.find(layer, version):
            if copy.buffer.is_sound:
                return copy
            self.ram.drop(copy)
            if copy.kind == OWN:
                self._tell(int(copy.origin.partition(":")[2]), Spoilt(version=Version(*version)))
            self._changed()
        return None

    def _say_waits(self, why: str) -> None:
        self._waits = bool(why)
        assert self._start is not None
        self._agent.carry_out(self._agent.member.restore_waits(self._start.generation, why))

    # Copies for peers.

    def can_pull(self) -> bool:
        return bool(self._followed) and self._agent.active and self._next_source() is not None

    def pull(self) -> str:
        found = self._next_source()
        assert found is not None
        node, peer, following = found
        if not following.left:
            return self._ask(node, peer, following)
        assert following.version is not None
        if not following.has_room:
            return self._make_room(following.left[0], following.version, following)
        layer, version, following.has_room = following.left.pop(0), following.version, False
        given = peer.tiers.give(layer, version)
        if given is None:
            following.left.clear()
            return f"layer {layer} at {version} is not to be had of {node} any more"
        self.ram.receive(layer, version, given.state, f"{PEER}:{node}")
        self._changed()
        return f"pulls layer {layer} at {version} from {node}"

    def _make_room(self, layer: int, version: Pair, following: _Following) -> str:
        """Before it comes, and whether it comes or not."""
        here = [held for held, layers in self.ram.versions().items() if layer in layers and held != version]
        self._spare = self._spare.after(version) if self._spare is not None else None
        stay = spared_at_arrival(here, (self.kept, following.kept), self._spare)
        self.ram.keep_only(lambda copy: outlives_arrival(copy, layer, version, stay))
        self._changed()
        following.has_room = True
        return f"makes room for layer {layer} at {version}"

    def _ask(self, node: NodeId, peer: "Agent", following: _Following) -> str:
        held = self._held(following)
        peer.tiers.hear(self._agent, held, following.layers)
        newest, kept = newest_whole(peer.tiers.ram.versions(), following.layers), peer.tiers.kept
        following.version, following.kept = newest, kept
        if kept is not None:
            self._forget_unwanted(kept)
            self._changed()
        if newest is not None and newest != held:
            here = self.ram.versions((PEER,)).get(newest, set())
            following.left, following.has_room = sorted(following.layers - here), False
        return f"asks {node}, holding {held}: {newest}, kept {kept}"

    def hear(self, by: "Agent", held: Pair | None, layers: frozenset[int]) -> None:
        """A peer asks, and says what it holds."""
        if held is None:
            self.copied.pop(by.node, None)
        else:
            self.copied[by.node] = (by.tiers.incarnation, held, layers)
            self._tell_copied()

    @property
    def incarnation(self) -> str:
        """As members know this agent."""
        me = self._agents.get(self._agent.node)
        return me.incarnation if me is not None else ""

    def _next_source(self) -> "tuple[NodeId, Agent, _Following] | None":
        for node, following in self._followed.items():
            peer = self._peer(node)
            if peer is not None and (following.left or self._has_news(peer, following)):
                return node, peer, following
        return None

    def _has_news(self, peer: "Agent", following: _Following) -> bool:
        """For either of the two."""
        held, said = self._held(following), peer.tiers.copied.get(self._agent.node)
        known = (self.incarnation, held, following.layers) if held is not None else None
        newest = newest_whole(peer.tiers.ram.versions(), following.layers)
        return said != known or peer.tiers.kept != following.kept or (newest is not None and newest != held)

    def _held(self, following: _Following) -> Pair | None:
        return said_to_hold(self.ram.versions((PEER,)), following.layers, following.version)

    def _peer(self, node: NodeId) -> "Agent | None":
        """One that answers, at the address that the generation's record names."""
        known, agent = self._agents.get(node), self._world.agents.get(node)
        if known is None or agent is None or not agent.active or agent.member.identity.port != known.port:
            return None
        return agent if self._world.network.joins(self._agent.node, node) else None

    # Checkpoints.

    def can_upload(self) -> bool:
        return self._agent.active and self._uploads.can_upload()

    def upload(self) -> str:
        return self._uploads.upload()

    # Its hands.

    def _tell(self, index: int, message: ToWorker) -> None:
        worker = self._agent.workers.get(index)
        if worker is not None and worker.alive:
            worker.to_worker.append(message)

    def _changed(self) -> None:
        held: Mapping[Pair, set[int]] = self.ram.versions()
        inventory = tuple(
            SnapshotInventory(version=Version(*version), layers=tuple(sorted(held[version])))
            for version in sorted(held)
        )
        self._agent.member.stores(inventory, frozenset(self._unsound))
