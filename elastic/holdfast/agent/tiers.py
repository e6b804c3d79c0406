"""Everything this node holds besides live state: its workers' snapshots, copies for peers, its share of checkpoints.

On the agent's event loop; bytes are read, written and verified on threads. What is to be done about them follows from
the newest start alone, which every agent sees, so that nobody has to be told.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.agent.checkpoint_reading import Absence, CheckpointReader
from holdfast.agent.fetching import Fetched, Fetching, LostCopiesError
from holdfast.agent.peer_tier import PeerTier
from holdfast.agent.peers import Peers
from holdfast.agent.relaying import lines
from holdfast.agent.remote_tier import RemoteTier
from holdfast.agent.uploading import Uploader
from holdfast.control.member_commands import PutUpload
from holdfast.control.snapshotting import copied
from holdfast.errors import UserError
from holdfast.model.ids import NodeId
from holdfast.model.messages import Restored, SnapshotBegun, Snapshotted, Spoilt, ToWorker, Uploaded
from holdfast.model.records import (
    GenerationRecord,
    JobRecord,
    SnapshotInventory,
    StartRecord,
    UploadRecord,
    Version,
)
from holdfast.spec import JobSpec
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.placement import upload_shares
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.ram_folder import RamFolder
from holdfast_checkpoint.sparing import OWN, outlives_overwriting, outlives_start

log = logging.getLogger(__name__)
# Of the time that the coordinator gives a start, the share after which it hears that this waits for the storage.
_SHARE_TO_SAY = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What the tiers need of their agent."""

    tell_worker: Callable[[int, ToWorker], None]
    worker_pid: Callable[[int], int | None]
    say_upload: Callable[[PutUpload], None]
    snapshots_changed: Callable[[tuple[SnapshotInventory, ...], frozenset[str]], None]  # for the next inventory
    restore_failed: Callable[[int, str], None]  # (generation, why)
    restore_waits: Callable[[int, str], None]  # (generation, for what; empty: not any more)
    in_background: Callable[[Coroutine[Any, Any, None], str], None]
    corrupt: Callable[[str], None]  # a copy of that tier was not what was written; it was dropped


class Tiers:
    """One an agent."""

    def __init__(self, job: JobRecord, home: Home, node: NodeId, peers: Peers, ram: Path | None = None) -> None:
        """`ram`: a folder on tmpfs. Raises: UserError: it cannot be used, or the storage cannot."""
        settings = JobSpec.model_validate(job.spec)
        self.remote = RemoteTier.opened(settings.checkpoints.url)
        self.ram = RamTier(_ram_folder(ram, job, node) if ram is not None else None)
        self.peers = PeerTier(
            node,
            self.ram,
            peers,
            settings.snapshots.bandwidth_bytes,
            on_copied=self._tell_copied,
            on_pulled=self._changed,
            on_corrupt=self._spoilt,
        )
        self._node, self._job, self._home = node, job, home
        self._copies = settings.snapshots.copies
        self._uploader = (
            Uploader(self.remote, job.run, node, self.ram, self._uploaded, self._spoilt, settings.checkpoints.upload_s)
            if self.remote is not None
            else None
        )
        self._absence = Absence(
            settings.checkpoints.away_s, settings.timeouts.start_s * _SHARE_TO_SAY, self._restore_waits
        )
        self._start: StartRecord | None = None
        self._taken: dict[int, Snapshotted] = {}  # by slot, the last one
        self._unsound: set[str] = set()
        self._fetching: asyncio.Task[None] | None = None

    def recall(self) -> None:
        """What an agent of this node before this one held, if that was kept; once this one has the node's name."""
        if copies := self.ram.recall():
            log.info("ram.recalled", extra={"copies": copies})
        self._changed()

    def snapshot_said(self, index: int, message: SnapshotBegun | Snapshotted) -> None:
        """By the worker of a slot."""
        if isinstance(message, SnapshotBegun):
            self._begun(index, message.kept)
        else:
            self._adopt(index, message)
        self._changed()

    def tend(self, generation: GenerationRecord, start: StartRecord) -> None:
        """A generation starts: restore what its workers lack, then see to copies."""
        self._start = start
        if self._fetching is not None:
            self._fetching.cancel()
        mine = {restore.layer for restore in start.restores if restore.target.node == self._node}
        self.peers.arrivals.expect(start.generation, mine)
        if mine:
            self._fetching = asyncio.create_task(self._restore(start), name="restore")
        self._drop_outdated()
        self.ram.sweep()
        placement = self.peers.place(generation, start, self._job.layer_bytes, self._copies)
        if placement.short:
            log.warning("snapshot.few_domains", extra={"layers": len(placement.short), "copies": self._copies})
        self._tell_copied()
        if start.urgent and self._uploader is not None:
            held = self.ram.versions().get((start.version.step, start.version.generation), frozenset())
            self._home.in_background(self._upload_urgently(self._uploader, start.version, held), "urgent-upload")
        self._changed()

    async def run(self) -> None:
        """For ever: take copies for peers."""
        await self.peers.run()

    async def close(self, within_s: float) -> None:
        """`within_s`: for what is under way to remote storage; what takes longer is left behind, unfinished."""
        if self._fetching is not None:
            self._fetching.cancel()
        self.peers.close()
        if self.remote is not None:
            await self.remote.close(within_s)
        self.ram.close()

    def _begun(self, index: int, kept: Version | None) -> None:
        """A worker overwrites what it has of other versions; what was fetched for it, it has taken over."""
        start = self._start
        held = start.version if start is not None and start.plan is None else None
        self.ram.keep_only(lambda copy: outlives_overwriting(copy, f"{OWN}:{index}", _pair(kept), _pair(held)))
        if kept is not None:
            self.peers.keep(kept)

    def _adopt(self, index: int, message: Snapshotted) -> None:
        pid, version = self._home.worker_pid(index), message.version
        for blob in message.blobs:
            digest = Digest(size=blob.size, chunks=blob.chunks, chunk_bytes=blob.chunk_bytes)
            path = f"/proc/{pid}/fd/{blob.fd}"
            try:
                self.ram.adopt(f"{OWN}:{index}", blob.layer, version.step, version.generation, path, digest)
            except (OSError, CheckpointError) as error:  # it died in this moment
                log.warning("snapshot.lost", extra={"slot": index, "step": version.step, "error": str(error)})
                self._home.tell_worker(index, Spoilt(version=version))
                self._home.tell_worker(index, Uploaded(version=version))
                return
        self._taken[index] = message
        self.peers.changed()
        self._tell_copied()
        if message.for_checkpoint:
            # By the plan under which all took it. This node's workers say so before they stop for the next generation,
            # and that one starts only once they have stopped: so no two replicas leave a layer to each other.
            share = self._share()
            layers = frozenset(blob.layer for blob in message.blobs if share is None or blob.layer in share)
            self._home.in_background(self._upload(index, message, layers), f"upload-{version.step}")

    def _tell_copied(self) -> None:
        """Workers hear once their snapshots have the copies that are wanted of them."""
        if self._start is not None:
            for index, message in copied(self._start.generation, self._taken, self.peers.is_copied):
                self._home.tell_worker(index, message)

    async def _upload(self, index: int, message: Snapshotted, layers: frozenset[int]) -> None:
        version = message.version
        try:
            if self._uploader is not None:
                await self._uploader.upload(version, layers, message.loss)
        except Exception:  # the task's boundary: a checkpoint that fails must not end the agent
            log.exception("checkpoint.broken", extra={"step": version.step})
        finally:
            self._home.tell_worker(index, Uploaded(version=version))

    async def _upload_urgently(self, uploader: Uploader, version: Version, layers: frozenset[int]) -> None:
        try:
            await uploader.upload(version, layers, None)
        except Exception:  # the task's boundary, as above
            log.exception("checkpoint.broken", extra={"step": version.step})

    def _share(self) -> frozenset[int] | None:
        """Layers that this node uploads; None: all that it has, where there is no plan."""
        plan = self._start.plan if self._start is not None else None
        if plan is None:
            return None
        return frozenset(upload_shares(plan.nodes_by_layer, self._job.layer_bytes).get(self._node, ()))

    def _uploaded(self, record: UploadRecord) -> None:
        self._home.say_upload(PutUpload(record))

    async def _restore(self, start: StartRecord) -> None:
        reader = None
        if start.checkpoint and self.remote is not None:
            reader = CheckpointReader(self.remote, start.checkpoint, start.version, self.ram, self._absence)
        fetching = Fetching(
            node=self._node,
            start=start,
            ram=self.ram,
            reader=reader,
            lines=lines(start.restores, self._job.layer_bytes) if reader is not None else {},
            pull=self.peers.pull,
            on_corrupt=self._found_corrupt,
            on_spoilt=self._spoilt,
            on_ended=lambda layer: self.peers.arrivals.ended(start.generation, layer),
        )
        try:
            await fetching.run(lambda fetched: self._restored(start, fetched))
        except* LostCopiesError as group:
            lost = [error for error in leaves(group) if isinstance(error, LostCopiesError)]
            detail = "; ".join(map(str, lost))
            log.error("restore.failed", extra={"generation": start.generation, "error": detail})
            self._unsound.update(error.unsound for error in lost if error.unsound)
            self._changed()
            self._home.restore_failed(start.generation, detail)
        except* Exception as group:  # the task's boundary: whatever it is, a worker waits for what does not come
            log.error("restore.broken", exc_info=group, extra={"generation": start.generation})
            self._home.restore_failed(start.generation, f"restoring failed: {group.exceptions[0]!r}")

    def _restore_waits(self, why: str) -> None:
        if self._start is not None:
            self._home.restore_waits(self._start.generation, why)

    def _restored(self, start: StartRecord, fetched: Fetched) -> None:
        path = f"/proc/{os.getpid()}/fd/{fetched.copy.file.fileno()}"
        message = Restored(generation=start.generation, layer=fetched.restore.layer, path=path, source=fetched.source)
        self._home.tell_worker(fetched.restore.target.index, message)
        self._changed()

    def _spoilt(self, copy: Copy) -> None:
        """A copy here turned out corrupt when somebody wanted it, and was dropped. Whoever made it hears of it."""
        kind, _, index = copy.origin.partition(":")
        if kind == OWN:
            self._home.tell_worker(int(index), Spoilt(version=Version(*copy.version)))
        self._found_corrupt(kind)

    def _found_corrupt(self, tier: str) -> None:
        self._home.corrupt(tier)
        self._changed()

    def _drop_outdated(self) -> None:
        start = self._start
        assert start is not None
        wanted = [_pair(version) for version in (start.version, start.kept, start.spare)]
        self.ram.keep_only(lambda copy: outlives_start(copy, wanted, start.generation))

    def _changed(self) -> None:
        inventory = tuple(
            SnapshotInventory(version=Version(step, generation), layers=tuple(sorted(layers)))
            for (step, generation), layers in self.ram.versions().items()
        )
        self._home.snapshots_changed(inventory, frozenset(self._unsound))


def _ram_folder(path: Path, job: JobRecord, node: NodeId) -> RamFolder:
    """This node's, of this run. What a run before left there is of no use any more.

    Raises: UserError: it cannot be used.
    """
    own = path / f"{JobSpec.model_validate(job.spec).name}.{node}"
    try:
        for before in own.iterdir() if own.is_dir() else ():
            if before.name != job.run:
                shutil.rmtree(before)
        return RamFolder(own / job.run)
    except (OSError, CheckpointError) as error:
        raise UserError(f"--ram {path}: {error}") from error


def _pair(version: Version | None) -> tuple[int, int] | None:
    return (version.step, version.generation) if version is not None else None


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """All that was raised, however deep."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
