"""Checkpoints of one term: holdfast.agent.librarian without asyncio. One call to the storage or the store an action.

In that order: the manifest, the list, the list without what is let go, what that was, the uploads that are over.
"""

from collections import deque
from collections.abc import Callable, Sequence
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
    """One a term of leading."""

    def __init__(self, world: "World", term: "Term") -> None:
        self._world, self._term = world, term
        self.calls = Channel()
        self._commands: deque[CommitCheckpoint] = deque()
        self._listed: tuple[CheckpointRef, ...] | None = None  # as it was written last
        self._leaving: list[str] = []
        self._steps: deque[Callable[[], str]] = deque()  # that are left of the first command

    def wants(self, command: CommitCheckpoint) -> None:
        self._commands.append(command)

    def can_act(self) -> bool:
        return bool(self._commands) and self._world.now_s >= self.calls.ready_at_s

    def act(self) -> str:
        """Done again until there is an answer."""
        world = self._world
        command, folder = self._commands[0], folder_of(self._commands[0].version)
        if not self._steps:
            self._steps.extend((self._commit, self._list, self._thin_out, self._delete, self._forget_uploads))
        try:
            told = self._steps[0]()
        except StoreUnavailableError as error:
            world.store.back_off(self.calls, world.now_s)
            return f"{folder}: {error}"
        except StorageAwayError:
            if self._steps[0] == self._commit:
                self._end()
                self._term.hear(CheckpointFailed(command.version))
                return f"cannot commit {folder}: the storage is away"
            told = "cannot delete: the storage is away"
        self._steps.popleft()
        if not self._steps:
            self._end()
        return f"{folder}: {told}"

    def _end(self) -> None:
        self._steps.clear()
        self._commands.popleft()

    def _commit(self) -> str:
        self._world.storage.commit(folder_of(self._commands[0].version))
        return "its manifest is written"

    def _list(self) -> str:
        version = self._commands[0].version
        new = CheckpointRef(version=version, folder=folder_of(version))
        before = self._commands[0].committed if self._listed is None else self._listed
        return self._write_list((*(ref for ref in before if ref.folder != new.folder), new))

    def _thin_out(self) -> str:
        listed = self._listed or ()
        in_use = self._commands[0].in_use
        kept = tuple(ref for ref in listed if ref in listed[-_KEPT:] or ref.folder == in_use)
        self._leaving = [ref.folder for ref in listed if ref not in kept]
        return self._write_list(kept) if self._leaving else "nothing is let go"

    def _write_list(self, listed: tuple[CheckpointRef, ...]) -> str:
        record = CheckpointsRecord(committed=listed)
        if not self._write([Put(key=self._world.keys.one("checkpoints"), value=encode(record))]):
            return "leads no more"
        self._listed = listed
        return f"lists {', '.join(ref.folder for ref in listed)}"

    def _delete(self) -> str:
        leaving, self._leaving = self._leaving, []
        for folder in leaving:
            self._world.storage.delete(folder)
        return f"deletes {', '.join(leaving) or 'nothing'}"

    def _forget_uploads(self) -> str:
        keys, version = self._world.keys, self._commands[0].version
        told = [kv.key for kv in self._world.keyspace.get_prefix(keys.uploads).kvs]
        self._write([Delete(key=key) for key in told if keys.version_of_upload(key) <= version])
        return "its uploads are over"

    def _write(self, operations: Sequence[Operation]) -> bool:
        self._world.store.pause(self.calls, self._world.now_s)
        return self._term.write(operations)
