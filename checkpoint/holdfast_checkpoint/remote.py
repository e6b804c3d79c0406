"""The remote tier: checkpoints under one URL, each a folder of blobs and a manifest that is written last.

A checkpoint without its manifest was never committed. Whatever is read back is verified against the manifest's
checksums, so a torn or changed one is found, named, and never used.
"""

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast_checkpoint.digest import Digest, chunks_of
from holdfast_checkpoint.errors import (
    CheckpointError,
    CorruptError,
    FormatError,
    NoCheckpointError,
    StorageBusyError,
    StorageError,
    UnfinishedError,
)
from holdfast_checkpoint.folders import MANIFEST, READING, Found, blob_path, folder_of, is_checkpoint, parts_of
from holdfast_checkpoint.header import Header, header_bytes, parse
from holdfast_checkpoint.manifest import BlobEntry, Manifest, from_json, to_json
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.storage_backend import Entry, Source
from holdfast_checkpoint.verified_reading import VerifiedReader, read_sound

__all__ = ["Found", "Repository", "folder_of", "parts_of"]

_COMMIT_TRIES = 3
log = logging.getLogger(__name__)


class Repository:
    """Synchronous; one may be used by many threads at once. Every method may raise StorageError."""

    def __init__(
        self,
        url: str,
        *,
        give_up_s: float = 60.0,
        pause_s: float = 0.2,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """`give_up_s`: how long a storage that fails for now is tried again; `pause_s`: about, before the second try.

        Raises: StorageError: the URL is refused, or a package is missing. Nothing is read or written yet.
        """
        self._storage = Storage(url, give_up_s=give_up_s, pause_s=pause_s, options=storage_options)
        self._reader = VerifiedReader(self._storage)
        self.url = self._storage.url

    def prepare(self) -> None:
        """Before anything starts: try all that will be needed.

        Raises:
            StorageDeniedError: somebody has to mend something first.
            StorageError: it does not work.
        """
        path, data = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(64)
        self._storage.put(path, data, create_only=True)
        try:
            if self._storage.read(path) != data:
                raise StorageError(f"{self._storage.url_of(path)} reads back as something else than was written there")
            self._storage.entries()
            if self._storage.put(path, data, create_only=True):
                # Nothing relies on it alone: who may write a manifest is decided by the rendezvous.
                log.info("storage.overwrites", extra={"url": self.url})
        finally:
            self._storage.remove(path)

    def close(self) -> None:
        """Whoever waits to try again gives up at once. For an agent that has to leave."""
        self._storage.close()

    def put_blob(
        self,
        folder: str,
        layer: int,
        source: str | Path,
        digest: Digest,
        given_up: threading.Event | None = None,
    ) -> str:
        """The path in the folder. May be repeated, and by several at once: copies of a layer's version are the same.

        `source`: a file, or /proc/self/fd/N of a memfd. `given_up`: once set this ends soon, with a StorageError.

        Raises: CorruptError: `source` is not what `digest` was made of; nothing of it was stored.
        """
        path = f"{_checked(folder)}/{blob_path(layer)}"
        if self._storage.size_of(path) == digest.size and self._reader.is_sound(path, digest):
            return blob_path(layer)
        what = f"layer {layer} to be stored as {self._storage.url_of(path)}"
        with Source(source, digest, what, given_up) as blob:
            self._storage.put_file(path, blob)
        return blob_path(layer)

    def commit(self, folder: str, manifest: Manifest) -> None:
        """Write the manifest, last of all. The same again (made at another time perhaps) is fine.

        Raises:
            UnfinishedError: not all its blobs are there.
            StorageError: another manifest is there.
        """
        if folder != folder_of(manifest.step, manifest.run, manifest.generation):
            raise ValueError(f"a manifest of step {manifest.step}, run {manifest.run!r} does not belong in {folder!r}")
        self._check_stored(folder, manifest)
        path = f"{folder}/{MANIFEST}"
        for _ in range(_COMMIT_TRIES):
            if self._holds(path, manifest):
                return
            # A torn one may be overwritten: nobody could take it for a checkpoint.
            self._storage.put(path, to_json(manifest), create_only=self._storage.size_of(path) is None)
        if not self._holds(path, manifest):
            raise StorageBusyError(f"{self._storage.url_of(path)} does not read back as it was written")

    def list(self) -> tuple[Found, ...]:
        """What a listing shows, oldest first: by step, then by generation."""
        folders: dict[str, list[Entry]] = {}
        for entry in self._storage.entries():
            folder, _, rest = entry.path.partition("/")
            if rest and is_checkpoint(folder):
                folders.setdefault(folder, []).append(entry)
        found = [_found(folder, entries) for folder, entries in folders.items()]
        return tuple(sorted(found, key=lambda one: (one.step, one.generation, one.folder)))

    def read_manifest(self, folder: str) -> Manifest:
        """Raises:
        NoCheckpointError: there is no such folder.
        UnfinishedError: it was never committed.
        CorruptError, FormatError: it is not what was written, or of another version.
        """
        path = f"{_checked(folder)}/{MANIFEST}"
        manifest = self._manifest(path)
        if manifest is None:
            if self._storage.entries(folder):
                raise UnfinishedError(f"{self._storage.url_of(folder)} has no manifest: it was never committed")
            raise NoCheckpointError(f"there is no checkpoint {self._storage.url_of(folder)}")
        if folder != folder_of(manifest.step, manifest.run, manifest.generation):
            raise CorruptError(
                f"{self._storage.url_of(path)} is of step {manifest.step}, run {manifest.run!r},"
                f" generation {manifest.generation}: it was moved here from elsewhere"
            )
        return manifest

    def newest(
        self, step: int | None = None, on_bad: Callable[[str, CheckpointError], None] | None = None
    ) -> tuple[str, Manifest]:
        """Folder and manifest of the highest step that has a sound manifest; of several runs, of the latest one.

        Blobs are not looked at. `on_bad` hears of each folder that is passed over, unfinished ones included.

        Raises: NoCheckpointError.
        """
        folders = [one for one in self.list() if step is None or one.step == step]
        for wanted in sorted({one.step for one in folders}, reverse=True):
            sound = []
            # Also where a listing shows no manifest yet: it may be late.
            for one in (one for one in folders if one.step == wanted):
                try:
                    sound.append((one.folder, self.read_manifest(one.folder)))
                except StorageError:
                    raise  # not to be reached is not the same as not to be there
                except CheckpointError as error:
                    if on_bad is not None:
                        on_bad(one.folder, error)
            if sound:
                return _latest(sound)
        raise NoCheckpointError(f"there is no checkpoint {f'of step {step} ' if step is not None else ''}at {self.url}")

    def say_reading(self, folder: str) -> None:
        """Whoever restores from it says so before it reads, and again while it does: `retention.being_read`."""
        self._storage.put(f"{_checked(folder)}/{READING}", b"")

    def find(self, folder: str) -> Found:
        """As `list` shows it."""
        return _found(_checked(folder), list(self._storage.entries(folder)))

    def read_blob_into(self, folder: str, entry: BlobEntry, buffer: memoryview) -> None:
        """`buffer` is writable and as long as the blob. After an error its content is undefined.

        Raises: CorruptError: names the URL, the layer and the bytes.
        """
        view = buffer.cast("B")
        if len(view) != entry.size:
            raise ValueError(f"buffer has {len(view)} bytes; layer {entry.layer} has {entry.size}")
        path = self._blob(folder, entry)
        self._reader.fill_all(path, entry.digest, view, _what(entry))

    def read_range(self, folder: str, entry: BlobEntry, start: int, stop: int) -> bytes:
        """Bytes [start, stop), verified: whole chunks of the digest are read.

        Raises: CorruptError.
        """
        if not 0 <= start <= stop <= entry.size:
            raise ValueError(f"layer {entry.layer} has {entry.size} bytes; there is no range from {start} to {stop}")
        chunks = list(chunks_of(entry.digest, start, stop)) if start < stop else []
        if not chunks:
            return b""
        begin, end = chunks[0][1], chunks[-1][2]
        data = memoryview(bytearray(end - begin))
        self._reader.fill(self._blob(folder, entry), entry.digest, begin, data, _what(entry))
        return bytes(data[start - begin : stop - begin])

    def read_header(self, folder: str, entry: BlobEntry) -> Header:
        """Raises: CorruptError, FormatError."""
        data = self.read_range(folder, entry, 0, min(entry.size, entry.digest.chunk_bytes))
        end = header_bytes(data)
        if end > entry.size:
            raise FormatError(f"{self._storage.url_of(self._blob(folder, entry))} is shorter than its header says")
        return parse(data if end <= len(data) else self.read_range(folder, entry, 0, end))

    def verify(self, folder: str, on_bytes: Callable[[int], None] | None = None) -> tuple[CheckpointError, ...]:
        """Read every byte of a checkpoint, a few ranges at a time. `on_bytes` hears of each, in the caller's thread.

        All that is wrong with it: of each blob each range with a wrong checksum, or that it is not there.
        """
        try:
            manifest = self.read_manifest(folder)
        except StorageError:
            raise
        except CheckpointError as error:
            return (error,)
        wrong: list[CheckpointError] = []
        for entry in manifest.blobs:
            for size, found in self._reader.verify(self._blob(folder, entry), entry.digest, _what(entry)):
                if found is not None:
                    wrong.append(found)
                if on_bytes is not None:
                    on_bytes(size)
        return tuple(wrong)

    def delete(self, folder: str) -> None:
        """Its manifest first: it never looks committed while it loses blobs. What is gone already is no error."""
        self._storage.remove(f"{_checked(folder)}/{MANIFEST}")
        self._storage.remove_folder(folder)

    def _check_stored(self, folder: str, manifest: Manifest) -> None:
        listed = {entry.path: entry.size for entry in self._storage.entries(folder)}
        for entry in manifest.blobs:
            path = self._blob(folder, entry)
            # A listing may be late; asking for the file itself is not.
            if listed.get(path) != entry.size and self._storage.size_of(path) != entry.size:
                raise UnfinishedError(
                    f"{self._storage.url_of(path)} is not stored whole: the checkpoint cannot be committed"
                )

    def _holds(self, path: str, manifest: Manifest) -> bool:
        """Whether this manifest is there. Raises: StorageError: another one is."""
        url = self._storage.url_of(path)
        try:
            other = self._manifest(path)
        except CorruptError:
            return False
        except FormatError as error:
            raise StorageError(f"{url} is there already, and not of this version: {error}") from error
        if other is None:
            return False
        if to_json(replace(other, created="", loss=None)) != to_json(replace(manifest, created="", loss=None)):
            raise StorageError(f"{url} is there already, and is another one; it was committed at {other.created}")
        return True

    def _manifest(self, path: str) -> Manifest | None:
        """None: there is none."""

        def read() -> Manifest | None:
            data = self._storage.read(path)
            return None if data is None else from_json(data, self._storage.url_of(path))

        return read_sound(read)

    def _blob(self, folder: str, entry: BlobEntry) -> str:
        if not entry.path or any(part in {"", ".", ".."} for part in entry.path.split("/")):
            raise FormatError(f"blob path {entry.path!r} of {folder} leads out of the checkpoint")
        return f"{_checked(folder)}/{entry.path}"


def _checked(folder: str) -> str:
    parts_of(folder)
    return folder


def _what(entry: BlobEntry) -> str:
    return f"layer {entry.layer} ({entry.name})"


def _found(folder: str, entries: list[Entry]) -> Found:
    times = {entry.path: entry.modified_s for entry in entries if entry.modified_s is not None}
    return Found(
        folder=folder,
        step=parts_of(folder)[0],
        is_committed=any(entry.path == f"{folder}/{MANIFEST}" for entry in entries),
        modified_s=max(times.values(), default=None),
        read_s=times.get(f"{folder}/{READING}"),
    )


def _latest(sound: list[tuple[str, Manifest]]) -> tuple[str, Manifest]:
    """Generations count within a run; of runs only clocks tell which was later."""
    latest = max(sound, key=lambda one: one[1].created)[1].run
    return max((one for one in sound if one[1].run == latest), key=lambda one: one[1].generation)
