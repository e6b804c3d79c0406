"""The job's remote storage, as one agent uses it: what is there, and the threads that may wait for it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.agent.storage_calls import StorageCalls
from holdfast.errors import UserError
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.remote import Repository


def _calls(purpose: str, threads: int) -> Callable[[], StorageCalls]:
    return lambda: StorageCalls(purpose, threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTier:
    """One an agent."""

    repository: Repository
    uploads: StorageCalls = field(default_factory=_calls("upload", 4))
    restores: StorageCalls = field(default_factory=_calls("restore", 4))
    commits: StorageCalls = field(default_factory=_calls("commit", 2))

    @staticmethod
    def opened(url: str | None) -> "RemoteTier | None":
        """None: the job has none. Raises: UserError: this machine lacks what the storage needs."""
        try:
            return RemoteTier(repository=Repository(url)) if url is not None else None
        except CheckpointError as error:
            raise UserError(f"checkpoints.url: {error}") from error

    async def close(self, within_s: float) -> None:
        """Nobody tries anything again. Uploads get so long to leave nothing half-written behind."""
        self.repository.close()
        await self.uploads.settle(within_s)
