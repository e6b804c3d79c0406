"""What a fake agent holds besides live state: mirror of holdfast.agent.tiers.

Each `can_*` says whether an action is possible, the other does it: one layer fetched, one question to a peer, one layer
pulled, one share uploaded.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.control.snapshotting import copied
from holdfast.model.messages import SnapshotBegun, Snapshotted, Spoilt, ToWorker, Uploaded
from holdfast.model.records import GenerationRecord, SnapshotInventory, StartRecord, Version
from holdfast.simulator.buffers import Pair, pair
from holdfast.simulator.fetching import Fetching, Home
from holdfast.simulator.peer_tier import PeerTier
from holdfast.simulator.ram import Copy, Ram
from holdfast.simulator.uploads import Uploads
from holdfast_checkpoint.placement import upload_shares
from holdfast_checkpoint.sparing import OWN, outlives_overwriting, outlives_start

if TYPE_CHECKING:
    from holdfast.simulator.agent import Agent
    from holdfast.simulator.world import World


class Tiers:
    """One an agent."""

    def __init__(self, world: "World", agent: "Agent") -> None:
        self._world, self._agent = world, agent
        self.ram = Ram(self._spoilt)
        self.peers = PeerTier(world, agent.node, self.ram, on_copied=self._tell_copied, on_changed=self._changed)
        self._uploads = Uploads(world, agent.node, self.ram.find_sound, lambda report: agent.carry_out([report]))
        self._fetching: Fetching | None = None
        self._start: StartRecord | None = None
        self._taken: dict[int, Snapshotted] = {}  # by slot, the last one
        self._unsound: set[str] = set()

    # What its workers and the store say.

    def snapshot_said(self, index: int, message: SnapshotBegun | Snapshotted) -> None:
        if isinstance(message, SnapshotBegun):
            self._begun(index, message.kept)
        else:
            self._adopt(index, message)
        self._changed()

    def tend(self, generation: GenerationRecord, start: StartRecord) -> None:
        """A generation starts."""
        self._start = start
        self._fetching = self._restore(start)
        lasting = [pair(version) for version in (start.version, start.kept, start.spare) if version is not None]
        self.ram.keep_only(lambda copy: outlives_start(copy, lasting, start.generation))
        self.peers.place(generation, start)
        self._tell_copied()
        if start.urgent and self._world.storing.checkpoints:
            self._uploads.wish(start.version, self.ram.versions().get(pair(start.version), set()))
        self._changed()

    def _begun(self, index: int, kept: Version | None) -> None:
        """A worker overwrites what it has of other versions."""
        start = self._start
        held = start.version if start is not None and start.plan is None else None
        spared = [pair(version) if version is not None else None for version in (kept, held)]
        self.ram.keep_only(lambda copy: outlives_overwriting(copy, f"{OWN}:{index}", *spared))
        if kept is not None:
            self.peers.keep(kept)

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

    def _restore(self, start: StartRecord) -> Fetching:
        agent = self._agent
        home = Home(
            tell_worker=self._tell,
            changed=self._changed,
            found_unsound=self._unsound.add,
            restore_failed=lambda number, why: agent.carry_out(agent.member.restore_failed(number, why)),
            restore_waits=lambda number, why: agent.carry_out(agent.member.restore_waits(number, why)),
        )
        storage, pull = self._world.storage, self.peers.fetch
        return Fetching(node=agent.node, start=start, ram=self.ram, storage=storage, pull=pull, home=home)

    def _share(self) -> frozenset[int] | None:
        """Layers that this node uploads; None: all that it has, where there is no plan."""
        if self._start is None or self._start.plan is None:
            return None
        shares = upload_shares(self._start.plan.nodes_by_layer, self._world.job.layer_bytes)
        return frozenset(shares.get(self._agent.node, ()))

    # What it does by itself.

    def can_fetch(self) -> bool:
        return self._agent.active and self._fetching is not None and self._fetching.can_fetch()

    def fetch(self) -> str:
        assert self._fetching is not None
        return self._fetching.fetch()

    def can_pull(self) -> bool:
        return self._agent.active and self.peers.can_pull()

    def pull(self) -> str:
        return self.peers.pull()

    def can_upload(self) -> bool:
        return self._agent.active and self._uploads.can_upload()

    def upload(self) -> str:
        return self._uploads.upload()

    # Whom it tells.

    def _tell_copied(self) -> None:
        """Workers hear once their snapshots have the copies that are wanted of them."""
        if self._start is not None:
            for index, message in copied(self._start.generation, self._taken, self.peers.is_copied):
                self._tell(index, message)

    def _spoilt(self, copy: Copy) -> None:
        """Whoever made it hears of it."""
        if copy.kind == OWN:
            self._tell(int(copy.origin.partition(":")[2]), Spoilt(version=Version(*copy.version)))
        self._changed()

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
