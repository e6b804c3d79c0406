"""The remote tier beside what the machine and s3fs do with the same bytes: writing and reading, locally and to S3.

Contenders take turns, round by round, so that a machine that is slow for a while is slow for all. Sources are memfds,
as agents have them. Figures are seconds; a ratio is the other's time over ours (0.8: we have 80 % of its speed).
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.harness.results import median, rounded
from holdfast_checkpoint.digest import Digest, digest_of
from holdfast_checkpoint.manifest import BlobEntry
from holdfast_checkpoint.remote import Repository, folder_of

GIB = 1 << 30
LAYERS = 8
_WRITE_BYTES = 1 << 20  # what is fastest for the plain one
_FOLDER = folder_of(1, "bench", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Layers in RAM, each the path of a memfd, with the digests that a snapshot makes anyway."""

    paths: tuple[str, ...]
    digests: tuple[Digest, ...]

    @property
    def size(self) -> int:
        return sum(digest.size for digest in self.digests)


def local_figures(folder: Path, size: int = GIB, rounds: int = 5) -> dict[str, Any]:
    """Writing durably to `folder`'s disk and reading back, against write()+fsync and read() of the same bytes."""
    with _state(size) as state, _scratch(folder) as scratch:
        remote = Repository(f"file://{scratch / 'ours'}")
        plain = scratch / "plain"

        def clean() -> None:
            shutil.rmtree(scratch / "ours", ignore_errors=True)
            shutil.rmtree(plain, ignore_errors=True)
            plain.mkdir()
            os.sync()  # nobody pays for the other's dirty pages

        writing = {"ours": lambda: _store(remote, state), "plain": lambda: _write_plain(plain, state)}
        written = _turns(writing, rounds, clean)
        clean()
        _store(remote, state)
        _write_plain(plain, state)
        reading = {"ours": lambda: _read(remote, state), "plain": lambda: _read_plain(plain, state)}
        read = _turns(reading, rounds, lambda: None)
    return {"bytes": state.size, "write": _compared(written, state.size), "read": _compared(read, state.size)}


def s3_figures(url: str, size: int = GIB, rounds: int = 5) -> dict[str, Any]:
    """Storing to S3 and reading back, against s3fs's own put_file and get of the same bytes.

    `url`: an empty place in a bucket; the environment says where the server is and who we are.
    """
    with _state(size) as state:
        remote = Repository(f"{url}/ours")
        filesystem, root = fsspec.url_to_fs(f"{url}/plain", skip_instance_cache=True, use_listings_cache=False)

        def put() -> None:
            for layer, path in enumerate(state.paths):
                filesystem.put_file(path, f"{root}/{layer}")

        def get() -> None:
            for layer in range(len(state.paths)):
                filesystem.cat_file(f"{root}/{layer}")

        def clean() -> None:
            remote.delete(_FOLDER)
            for layer in range(len(state.paths)):
                filesystem.call_s3(
                    "delete_object", Bucket=root.partition("/")[0], Key=f"{root.partition('/')[2]}/{layer}"
                )

        try:
            written = _turns({"ours": lambda: _store(remote, state), "plain": put}, rounds, clean)
            clean()
            _store(remote, state)
            put()
            read = _turns({"ours": lambda: _read(remote, state), "plain": get}, rounds, lambda: None)
        finally:
            clean()
    return {"bytes": state.size, "write": _compared(written, state.size), "read": _compared(read, state.size)}


def _store(remote: Repository, state: State) -> None:
    for layer, (path, digest) in enumerate(zip(state.paths, state.digests, strict=True)):
        remote.put_blob(_FOLDER, layer, path, digest)


def _read(remote: Repository, state: State) -> None:
    for layer, digest in enumerate(state.digests):
        entry = BlobEntry(layer=layer, name=str(layer), path=f"{layer:05d}.safetensors", digest=digest)
        remote.read_blob_into(_FOLDER, entry, memoryview(bytearray(digest.size)))


def _write_plain(folder: Path, state: State) -> None:
    """From memory that is mapped already, which is the best that anybody could do."""
    for layer, path in enumerate(state.paths):
        source = os.open(path, os.O_RDONLY)
        target = os.open(folder / str(layer), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        buffer = memoryview(bytearray(_WRITE_BYTES))
        try:
            while count := os.readv(source, [buffer]):
                data = buffer[:count]
                while data:
                    data = data[os.write(target, data) :]
            os.fsync(target)
        finally:
            os.close(source)
            os.close(target)


def _read_plain(folder: Path, state: State) -> None:
    for layer, digest in enumerate(state.digests):
        data = memoryview(bytearray(digest.size))
        with (folder / str(layer)).open("rb", buffering=0) as file:
            at = 0
            while at < len(data):
                at += file.readinto(data[at:])


def _turns(
    contenders: Mapping[str, Callable[[], None]], rounds: int, before: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each. The first round warms up and is not counted; who begins alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        names = sorted(contenders, reverse=bool(turn % 2))
        for name in names:
            before()
            begin_s = time.perf_counter()
            contenders[name]()
            if turn:
                seconds[name].append(time.perf_counter() - begin_s)
    return seconds


def _compared(seconds: Mapping[str, Sequence[float]], size: int) -> dict[str, Any]:
    """The ratio is the median of the rounds' own ratios."""
    ratios = [plain / ours for ours, plain in zip(seconds["ours"], seconds["plain"], strict=True)]
    return {
        "ours_s": rounded(seconds["ours"]),
        "plain_s": rounded(seconds["plain"]),
        "ours_gb_per_s": round(size / median(seconds["ours"]) / 1e9, 3),
        "plain_gb_per_s": round(size / median(seconds["plain"]) / 1e9, 3),
        "ratio": round(median(ratios), 3),
    }


@contextmanager
def _state(size: int) -> Iterator[State]:
    """Random bytes: a storage that compresses gains nothing."""
    files = [os.memfd_create(f"layer-{layer}") for layer in range(LAYERS)]
    try:
        digests = []
        for file in files:
            data = os.urandom(size // LAYERS)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
            digests.append(digest_of(data))
        yield State(paths=tuple(f"/proc/self/fd/{file}" for file in files), digests=tuple(digests))
    finally:
        for file in files:
            os.close(file)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="holdfast-remote-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
