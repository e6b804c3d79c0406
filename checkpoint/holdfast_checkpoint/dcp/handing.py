"""One rank's part of a save, handed over to the agent of its machine while it is stored."""

import logging
import os
from collections.abc import Callable

from holdfast_checkpoint.agent_messages import Named
from holdfast_checkpoint.dcp.local_agent import LocalAgent
from holdfast_checkpoint.digest import Digest, digest_of
from holdfast_checkpoint.errors import CheckpointError
from holdfast_checkpoint.manifest import Manifest, to_json

log = logging.getLogger(__name__)


class Handover:
    """An agent that fails costs its copy of the save and no more, unless the save `is_only` there."""

    def __init__(self, agent: LocalAgent, save: Named, rank: int, *, is_only: bool) -> None:
        self._agent, self._save, self._rank, self._is_only = agent, save, rank, is_only
        self._has_failed = False

    def begin(self, blobs: int, kept: Named | None) -> None:
        """`blobs`: of all ranks. Raises: StorageError, NoCheckpointError: as all here, if the save is only there."""
        self._try(lambda: self._agent.begin(self._save, blobs, kept))

    def blob(self, number: int, fd: int, digest: Digest) -> None:
        """Its file, which nobody writes to any more; the caller's to close."""
        self._try(lambda: self._agent.hand(self._save, number, self._rank, fd, digest))

    def manifest(self, manifest: Manifest) -> None:
        """Last of all, once every rank has handed over its blobs: now the save counts."""
        data, fd = to_json(manifest), blob_file()
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(data)
            digest = digest_of(data)
            self._try(lambda: self._agent.hand(self._save, None, self._rank, fd, digest, is_only=self._is_only))
        finally:
            os.close(fd)

    def close(self) -> None:
        self._agent.close()

    def _try(self, act: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            act()
        except CheckpointError as error:
            if self._is_only:
                raise
            self._has_failed = True
            log.warning("checkpoint.not_kept", extra={"step": self._save.step, "error": str(error)})


def blob_file() -> int:
    """A new file in memory that an agent takes."""
    return os.memfd_create("holdfast-blob", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
