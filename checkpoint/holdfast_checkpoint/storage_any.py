"""Checkpoints in whatever else fsspec reaches (memory, gcs, abfs, sftp, ...), with nothing but its common interface.

How whole and how durable a file is when it appears is up to that file system; that a torn one is never taken for a
checkpoint is not: manifests carry their checksum, and are written when all else is stored.
"""

import contextlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from holdfast_checkpoint.digest import Buffer
from holdfast_checkpoint.storage_backend import Entry, Source

# Up to this size a blob is handed over in one piece, which most object stores make visible in one step.
PIECE_BYTES_MAX = 64 << 20
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class AnyBackend:
    def __init__(self, filesystem: Any, root: str) -> None:
        """`filesystem`: a fsspec.AbstractFileSystem that caches no listings."""
        self.streams = 4
        self._fs, self._root = filesystem, root.rstrip("/")

    def put(self, path: str, data: Buffer, create_only: bool) -> bool:
        place = self._place(path)
        if create_only and self._fs.exists(place):
            return False  # not all file systems honour the mode below
        try:
            mode = "create" if create_only else "overwrite"
            self._with_folder(place, lambda: self._fs.pipe_file(place, bytes(data), mode=mode))
        except FileExistsError:
            if not create_only:
                raise
            return False
        return True

    def put_file(self, path: str, source: Source) -> None:
        place = self._place(path)
        if source.size <= PIECE_BYTES_MAX:
            data = source.read(0, source.size)
            self._with_folder(place, lambda: self._fs.pipe_file(place, data))
            return
        buffer = memoryview(bytearray(source.digest.chunk_bytes))
        for start in range(0, source.size, source.digest.chunk_bytes):
            source.read_into(start, buffer[: source.size - start])
        self._with_folder(place, lambda: self._fs.put_file(source.path, place))

    def size_of(self, path: str) -> int:
        return int(self._fs.info(self._place(path))["size"])

    def entries(self, folder: str) -> Sequence[Entry]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._place(folder), detail=True)
        except FileNotFoundError:
            return ()
        return tuple(self._entry(place, facts) for place, facts in sorted(found.items()) if facts["type"] == "file")

    def read_into(self, path: str, start: int, buffer: memoryview) -> int:
        data = self._fs.cat_file(self._place(path), start=start, end=start + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def remove_folder(self, folder: str) -> None:
        for entry in self.entries(folder):
            self.remove(entry.path)
        # Where folders exist by themselves they are left empty now.
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._place(folder), recursive=True)

    def _with_folder(self, place: str, write: Callable[[], object]) -> None:
        """Folders are made only where the file system asks for them: object stores would make a bucket."""
        try:
            write()
        except FileNotFoundError:
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            write()

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _entry(self, place: str, facts: dict[str, Any]) -> Entry:
        times = [seconds for name in _TIMES if (seconds := _seconds(facts.get(name))) is not None]
        path = place.removeprefix(self._root).lstrip("/")
        return Entry(path=path, size=int(facts["size"]), modified_s=max(times, default=None))


def _seconds(value: object) -> float | None:
    """Since the Unix epoch; file systems tell times as numbers, datetimes or ISO 8601."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value) if isinstance(value, int | float) else None
