"""One rank's blobs of one save: made in memory, then put into the repository, one while the next one is made."""

import errno
import logging
import os
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from holdfast_checkpoint.dcp.handing import Handover, blob_file
from holdfast_checkpoint.dcp.host_memory import Create
from holdfast_checkpoint.dcp.packing import Part, laid_out, write_parts
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.folders import blob_path
from holdfast_checkpoint.header import Header
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)
_PENDING_MAX = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """`starts`: the byte of the blob at which each part begins, by the part's name."""

    entry: BlobEntry
    starts: dict[str, int]


class BlobStore:
    """`repository`: None where the agents alone keep the save. `create`: of files whose copies stay in memory; None
    keeps none. `handover`: None without agents."""

    def __init__(
        self,
        repository: Repository | None,
        folder: str,
        step: int,
        rank: int,
        create: Create | None,
        handover: Handover | None,
    ) -> None:
        self._repository, self._folder, self._step, self._rank = repository, folder, step, rank
        self._create, self._handover = create, handover

    def store(self, first: int, blobs: Iterable[Sequence[Part]]) -> list[StoredBlob]:
        """Numbered from `first` on. Raises: StorageError; then some may be stored, and none counts."""
        stored: list[StoredBlob] = []
        pending: deque[Future[StoredBlob]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="holdfast-store") as pool:
            for index, parts in enumerate(blobs):
                while len(pending) > _PENDING_MAX:
                    stored.append(pending.popleft().result())
                number, name = first + index, f"rank-{self._rank}-{index}"
                header, head = laid_out(parts, self._step)
                fd = self._open(number, header.size)
                try:
                    digest = write_parts(fd, parts, header, head)
                    pending.append(pool.submit(self._put, fd, number, name, header, digest))
                except OSError as error:
                    os.close(fd)
                    raise StorageError(f"no memory for a blob of {header.size} bytes: {error}") from error
                except BaseException:
                    os.close(fd)
                    raise
            stored += [future.result() for future in pending]
        return stored

    def _put(self, fd: int, number: int, name: str, header: Header, digest: Digest) -> StoredBlob:
        try:
            # First, so that peers take their copies while it is stored.
            if self._handover is not None:
                self._handover.blob(number, fd, digest)
            path = blob_path(number)
            if self._repository is not None:
                path = self._repository.put_blob(self._folder, number, f"/proc/self/fd/{fd}", digest)
        finally:
            os.close(fd)
        starts = {place.name: header.data_start + place.start for place in header.tensors}
        return StoredBlob(entry=BlobEntry(layer=number, name=name, path=path, digest=digest), starts=starts)

    def _open(self, number: int, size: int) -> int:
        """A file in memory; one that stays if it is to and there is room for it."""
        if self._create is not None:
            try:
                return self._create(blob_path(number), size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.ENOENT):
                    raise
                log.warning("checkpoint.no_room_in_memory", extra={"bytes": size, "error": str(error)})
        return blob_file()
