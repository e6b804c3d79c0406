"""Checkpoints in whatever else fsspec reaches (memory, gcs, abfs, sftp, ...), with nothing but its common interface.

How durable a file is when it appears is up to that file system; that a torn one is never taken for a checkpoint is not:
manifests carry their checksum, and are written when all else is stored. A blob is read once, and what was verified is
what is sent; one that is given up, or found corrupt, does not come into its place.
"""

import contextlib
import errno
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from holdfast_checkpoint.digest import Buffer
from holdfast_checkpoint.storage_backend import Entry, Source

# Up to this size a blob is handed over in one piece, which most object stores make visible in one step.
PIECE_BYTES_MAX = 64 << 20
# Of larger ones: what object stores take as a part, if their client does not collect more.
_PART_BYTES = 16 << 20
# What they store appears once its upload is completed, and their clients' rename is a copy.
_OBJECT_STORES = frozenset({"abfs", "abfss", "az", "gcs", "gs", "oci", "oss", "tos"})
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class AnyBackend:
    def __init__(self, filesystem: Any, root: str) -> None:
        """`filesystem`: a fsspec.AbstractFileSystem that caches no listings."""
        self.streams = 4
        self._fs, self._root = filesystem, root.rstrip("/")
        self._has_files, self._renames = _has_files(filesystem), _renames(filesystem)

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
        if self._has_files and self._renames:
            put = self._put_beside
        elif self._has_files and source.size > PIECE_BYTES_MAX:
            put = self._upload
        else:
            put = self._put_whole
        place = self._place(path)
        self._with_folder(place, lambda: put(place, source))

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
        self._remove(self._place(path))

    def remove_folder(self, folder: str) -> None:
        for entry in self.entries(folder):
            self.remove(entry.path)
        # Where folders exist by themselves they are left empty now.
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._place(folder), recursive=True)

    def _put_whole(self, place: str, source: Source) -> None:
        self._fs.pipe_file(place, source.read(0, source.size))

    def _put_beside(self, place: str, source: Source) -> None:
        folder, _, name = place.rpartition("/")
        beside = f"{folder}/.{name}.{secrets.token_hex(6)}.partial"
        try:
            self._upload(beside, source)
            stored = int(self._fs.info(beside)["size"])
            if stored != source.size:
                raise OSError(errno.EIO, f"{beside} has {stored} of {source.size} bytes")
            source.require_wanted()
            self._move(beside, place)
        except BaseException:
            with contextlib.suppress(Exception):  # of any kind; what made us stop is the news
                self._remove(beside)
            raise

    def _upload(self, place: str, source: Source) -> None:
        file = self._fs.open(place, "wb")
        try:
            if hasattr(file, "set_pipelined"):
                file.set_pipelined(True)  # paramiko's waits for an answer to every 32 KiB otherwise
            for piece in source.pieces(memoryview(bytearray(_PART_BYTES))):
                file.write(bytes(piece))  # a copy: some clients send it when the next piece is in the buffer already
            file.close()
        except BaseException:
            with contextlib.suppress(Exception):  # as above
                self._abandon(file, place)
            raise

    def _abandon(self, file: Any, place: str) -> None:
        """To close an upload would complete it, now or when the garbage collector does."""
        if isinstance(file, AbstractBufferedFile):
            file.closed = True
            file.discard()
            file.close()
        else:
            file.close()
            self._remove(place)

    def _move(self, beside: str, place: str) -> None:
        """Over what is there: some refuse that (SMB, HDFS), and not all of them say so."""
        try:
            self._fs.mv(beside, place)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        if self._fs.exists(beside):
            self._remove(place)
            self._fs.mv(beside, place)

    def _remove(self, place: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(place)

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


def _has_files(filesystem: Any) -> bool:
    """That a blob can be written to piece by piece. In memory an empty one is in its place as soon as it is opened, and
    what is written to those of fsspec's own `_open` goes nowhere."""
    return not isinstance(filesystem, MemoryFileSystem) and type(filesystem)._open is not AbstractFileSystem._open


def _renames(filesystem: Any) -> bool:
    """In one step, that is; fsspec's own `mv` copies and removes."""
    protocol = filesystem.protocol
    protocols = {protocol} if isinstance(protocol, str) else set(protocol)
    return not protocols & _OBJECT_STORES and getattr(filesystem.mv, "__func__", None) is not AbstractFileSystem.mv


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
