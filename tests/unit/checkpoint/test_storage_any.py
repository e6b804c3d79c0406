"""Blobs in storages of any other kind: what is stored was verified, and one that was given up replaces none."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from harness.storage.checkpoints import digest_in_chunks, in_memory
from harness.storage.faulty import State, register
from holdfast_checkpoint import storage_any
from holdfast_checkpoint.errors import CorruptError, StorageError
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.storage_any import AnyBackend
from holdfast_checkpoint.storage_backend import Source

CHUNK_BYTES = 1024
OLD, NEW = b"old!" * 2500, bytes(range(250)) * 40  # of one size, as versions of a layer are


class Interrupted:
    """What happens to a blob on its way: `at` is called with each "part", and when it is "looked at"."""

    def __init__(self) -> None:
        self.at: Callable[[str], None] = lambda event: None


class Uploading(AbstractBufferedFile):  # type: ignore[misc]  # fsspec is not typed
    """As those of object stores: the object is there once its last part is."""

    DEFAULT_BLOCK_SIZE = 2 * CHUNK_BYTES

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []
        self.fs.begun += 1

    def _upload_chunk(self, final: bool = False) -> bool:
        self.fs.interrupted.at("part")
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.objects[self.path] = b"".join(self.parts)
        return True

    def discard(self) -> None:
        self.fs.discarded += 1


class ObjectStore(AbstractFileSystem):  # type: ignore[misc]
    protocol = "teststore"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.interrupted = Interrupted()
        self.begun = self.discarded = 0

    def _open(self, path: str, mode: str = "rb", **_: object) -> Uploading:
        return Uploading(self, path, mode)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        return self.objects[path][start:end]

    def find(self, path: str, detail: bool = False, **_: object) -> dict[str, Any]:
        return {name: {"name": name, "type": "file", "size": len(data)} for name, data in self.objects.items()}


class Written:
    """A file of a server's own file system: what is written is there at once."""

    def __init__(self, path: str, interrupted: Interrupted) -> None:
        self._file, self._interrupted = open(path, "wb", buffering=0), interrupted  # noqa: SIM115 - closed by its user

    def write(self, data: bytes) -> None:
        self._interrupted.at("part")
        self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Server(AbstractFileSystem):  # type: ignore[misc]
    """As sftp: files appear as they are opened, folders must be there, and files can be renamed."""

    protocol = "testserver"
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.interrupted = Interrupted()
        self.renames_over = True

    def _open(self, path: str, mode: str = "rb", **_: object) -> Written:
        assert mode == "wb"
        return Written(path, self.interrupted)

    def mv(self, path1: str, path2: str, **_: object) -> None:
        if not self.renames_over and os.path.exists(path2):
            raise OSError(errno.EEXIST, "File exists", path2)
        Path(path1).rename(path2)

    def info(self, path: str, **_: object) -> dict[str, Any]:
        self.interrupted.at("looked at")
        return {"name": path, "type": "file", "size": os.stat(path).st_size}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        os.makedirs(path, exist_ok=exist_ok)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        return Path(path).read_bytes()[start:end]

    def _rm(self, path: str) -> None:
        os.unlink(path)

    def find(self, path: str, detail: bool = False, **_: object) -> dict[str, Any]:
        found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
        return {name: self.info(name) for name in found}


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(storage_any, "PIECE_BYTES_MAX", CHUNK_BYTES)
    monkeypatch.setattr(storage_any, "_PART_BYTES", 3 * CHUNK_BYTES)
    return ObjectStore()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(storage_any, "_PART_BYTES", 3 * CHUNK_BYTES)
    return Server()


@pytest.fixture(params=["objects", "server"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, AnyBackend]:
    filesystem = request.getfixturevalue(request.param)
    return filesystem, AnyBackend(filesystem, str(tmp_path / "root"))


@pytest.fixture
def given_up() -> threading.Event:
    return threading.Event()


@pytest.fixture
def source(given_up: threading.Event) -> Iterator[Source]:
    with in_memory(NEW) as path, Source(path, digest_in_chunks(NEW, CHUNK_BYTES), "layer 3", given_up) as made:
        yield made


def put(backend: AnyBackend, content: bytes) -> None:
    with in_memory(content) as path, Source(path, digest_in_chunks(content, CHUNK_BYTES), "it") as source:
        backend.put_file("f/a", source)


def overwrite(source: Source) -> None:
    """As the next snapshot does: in place."""
    with open(source.path, "r+b") as file:
        file.write(bytes(source.size))


def stored(backend: AnyBackend) -> dict[str, bytes]:
    """All of it, what is left of failures included."""
    found: dict[str, bytes] = {}
    for entry in backend.entries(""):
        buffer = bytearray(entry.size)
        backend.read_into(entry.path, 0, memoryview(buffer))
        found[entry.path] = bytes(buffer)
    return found


def test_a_large_blob_is_stored_and_replaces_the_one_before(kind: tuple[Any, AnyBackend], source: Source) -> None:
    _, backend = kind
    put(backend, OLD)
    assert stored(backend) == {"f/a": OLD}
    backend.put_file("f/a", source)
    assert stored(backend) == {"f/a": NEW}


def test_memory_that_changes_while_it_is_sent_is_never_stored(kind: tuple[Any, AnyBackend], source: Source) -> None:
    filesystem, backend = kind
    put(backend, OLD)
    filesystem.interrupted.at = lambda event: overwrite(source)
    with pytest.raises(CorruptError, match="layer 3 is corrupt between bytes"):
        backend.put_file("f/a", source)
    assert stored(backend) == {"f/a": OLD}


def test_an_upload_that_was_given_up_replaces_nothing_when_its_answer_comes_at_last(
    kind: tuple[Any, AnyBackend], source: Source, given_up: threading.Event
) -> None:
    filesystem, backend = kind
    put(backend, OLD)
    sent: list[str] = []

    def give_up(event: str) -> None:
        sent.append(event)
        if len(sent) == 3:
            given_up.set()

    filesystem.interrupted.at = give_up
    with pytest.raises(StorageError, match="layer 3: it was given up"):
        backend.put_file("f/a", source)
    filesystem.interrupted.at = lambda event: None
    assert stored(backend) == {"f/a": OLD}


@pytest.mark.parametrize("event", ["part", "looked at"])
def test_one_that_was_given_up_with_its_last_part_does_not_get_its_name(
    server: Server, tmp_path: Path, source: Source, given_up: threading.Event, event: str
) -> None:
    backend = AnyBackend(server, str(tmp_path))
    put(backend, OLD)
    sent: list[str] = []

    def give_up(now: str) -> None:
        sent.append(now)
        if now == event and len(sent) >= 4:  # of parts there are four
            given_up.set()

    server.interrupted.at = give_up
    with pytest.raises(StorageError, match="layer 3: it was given up"):
        backend.put_file("f/a", source)
    server.interrupted.at = lambda event: None
    assert stored(backend) == {"f/a": OLD}


@pytest.mark.parametrize("part", [1, 2])
def test_an_upload_that_breaks_off_leaves_the_old_blob_and_no_trace(
    kind: tuple[Any, AnyBackend], source: Source, part: int
) -> None:
    filesystem, backend = kind
    put(backend, OLD)
    sent: list[str] = []

    def fail(event: str) -> None:
        sent.append(event)
        if len(sent) == part:
            raise ConnectionResetError("gone")

    filesystem.interrupted.at = fail
    with pytest.raises(ConnectionResetError):
        backend.put_file("f/a", source)
    filesystem.interrupted.at = lambda event: None
    assert stored(backend) == {"f/a": OLD}
    if isinstance(filesystem, ObjectStore):
        assert (filesystem.begun, filesystem.discarded) == (2, 1)


def test_a_short_file_does_not_get_its_name(server: Server, tmp_path: Path, source: Source) -> None:
    backend = AnyBackend(server, str(tmp_path))
    put(backend, OLD)

    def shorten(event: str) -> None:
        if event == "looked at":
            (partial,) = (tmp_path / "f").glob(".a.*.partial")
            os.truncate(partial, 100)

    server.interrupted.at = shorten
    with pytest.raises(OSError, match="has 100 of 10000 bytes"):
        backend.put_file("f/a", source)
    server.interrupted.at = lambda event: None
    assert stored(backend) == {"f/a": OLD}


def test_where_a_name_that_is_taken_is_refused_the_old_blob_makes_room(
    server: Server, tmp_path: Path, source: Source
) -> None:
    backend = AnyBackend(server, str(tmp_path))
    put(backend, OLD)
    server.renames_over = False
    backend.put_file("f/a", source)
    assert stored(backend) == {"f/a": NEW}


class Changing(Source):
    """Its memory is overwritten as soon as it was read through once."""

    def read(self, start: int, stop: int) -> bytes:
        data = super().read(start, stop)
        self._overwrite(stop)
        return data

    def read_into(self, start: int, buffer: memoryview) -> None:
        super().read_into(start, buffer)
        self._overwrite(start + len(buffer))

    def _overwrite(self, stop: int) -> None:
        if stop == self.size:
            overwrite(self)


@pytest.mark.parametrize("url", ["memory://storage-any", "faulty://storage-any"])
def test_where_files_cannot_be_taken_back_a_large_blob_goes_whole_as_it_was_verified(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(storage_any, "PIECE_BYTES_MAX", CHUNK_BYTES)
    register()
    options = {"target": "memory", "rate": 0.0, "state": State()} if url.startswith("faulty") else {}
    storage = Storage(url, pause_s=0.0, give_up_s=1.0, options=options)
    with in_memory(NEW) as path, Changing(path, digest_in_chunks(NEW, CHUNK_BYTES), "it") as source:
        storage.put_file("f/a", source)
    assert storage.read("f/a") == NEW
    storage.remove_folder("f")


def test_what_a_storage_can_do_is_told_from_its_file_system() -> None:
    register()
    found = {
        name: (storage_any._has_files(filesystem), storage_any._renames(filesystem))
        for name, filesystem in {
            "memory": fsspec.filesystem("memory"),
            "faulty": fsspec.filesystem("faulty", target="memory"),
            "objects": ObjectStore(),
            "server": Server(),
        }.items()
    }
    assert found == {
        "memory": (False, False),
        "faulty": (False, False),
        "objects": (True, False),
        "server": (True, True),
    }
