"""Checkpoints of one term: holdfast.agent.librarian without asyncio. One call to the storage or the store an action."""

from collections import deque
from typing import TYPE_CHECKING

from holdfast.errors import StoreUnavailableError
from holdfast.model.commands import CommitCheckpoint
from holdfast.model.events import CheckpointFailed
from holdfast.model.records import CheckpointRef, CheckpointsRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Delete, Operation, Put
from holdfast.simulator.network import Channel
from holdfast.simulator.storage import StorageAwayError, folder_of

if TYPE_CHECKING:
    from holdfast.simulator.term import Term
    from holdfast.simulator.world import World

_KEPT = 2


class Library:
    """The manifest first, then the store's list, without what is let go, then what that was."""

    def __init__(self, world: "World", term: "Term") -> None:
        self._world, self._term = world, term
        self.calls = Channel()
        self._commands: deque[CommitCheckpoint] = deque()
        self._listed: tuple[CheckpointRef, ...] | None = None  # as it was written last
        self._unlisted: CheckpointRef | None = None  # its manifest is written
        self._leaving: list[str] = []

    def wants(self, command: CommitCheckpoint) -> None:
        self._commands.append(command)

    def can_act(self) -> bool:
        return bool(self._commands or self._leaving) and self._world.now_s >= self.calls.ready_at_s

    def act(self) -> str:
        if self._unlisted is not None:
            return self._list(self._unlisted)
        return self._tidy() if self._leaving else self._commit()

    def _commit(self) -> str:
        version = self._commands[0].version
        folder = folder_of(version)
        try:
            self._world.storage.commit(folder)
        except StorageAwayError:
            self._commands.popleft()
            self._term.hear(CheckpointFailed(version))
            return f"cannot commit {folder}: the storage is away"
        self._unlisted = CheckpointRef(version=version, folder=folder)
        return f"commits {folder}"

    def _list(self, new: CheckpointRef) -> str:
        command, world = self._commands[0], self._world
        before = command.committed if self._listed is None else self._listed
        listed = (*(ref for ref in before if ref.folder != new.folder), new)
        kept = tuple(ref for ref in listed if ref in listed[-_KEPT:] or ref.folder == command.in_use)
        record = CheckpointsRecord(committed=kept)
        old = [
            kv.key for kv in world.keyspace.get_prefix(world.keys.uploads).kvs
            if world.keys.version_of_upload(kv.key) <= new.version
        ]  # fmt: skip
        operations: list[Operation] = [Put(key=world.keys.one("checkpoints"), value=encode(record))]
        operations += [Delete(key=key) for key in old]
        world.store.pause(self.calls, world.now_s)
        try:
            written = self._term.write(operations)
        except StoreUnavailableError as error:
            world.store.back_off(self.calls, world.now_s)
            return f"lists {new.folder}: {error}"
        if not written:
            return "leads no more"
        self._commands.popleft()
        self._listed, self._unlisted = kept, None
        self._leaving += [ref.folder for ref in listed if ref not in kept]
        return f"lists {', '.join(ref.folder for ref in kept)}"

    def _tidy(self) -> str:
        folder = self._leaving.pop(0)
        try:
            self._world.storage.delete(folder)
        except StorageAwayError:
            return f"cannot delete {folder}: the storage is away"
        return f"deletes {folder}"
