"""Shared memory that has names: files in a folder on tmpfs, in place of anonymous ones.

They outlive every process of a node, so an agent that starts again, in a container that was restarted say, finds the
copies that the one before it held. Beside each copy lies a note of what it is; what has none belongs to nobody once
the process that made it is gone. Not for several agents at once.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError, StorageError

log = logging.getLogger(__name__)

_BLOB, _NOTE = ".blob", ".json"
_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = {"tmpfs", "ramfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Of one copy: see `holdfast_checkpoint.ram.Copy`."""

    origin: str
    layer: int
    step: int
    generation: int
    digest: Digest


def memory_file(name: str, folder: Path | None) -> int:
    """The descriptor of a new, empty file in memory. `name`: of an anonymous one, for people who look at processes.

    Raises: OSError.
    """
    if folder is None:
        return os.memfd_create(f"holdfast.{name}", os.MFD_CLOEXEC)
    fd, _ = tempfile.mkstemp(prefix=f"{_process(os.getpid())}-", suffix=_BLOB, dir=folder)
    return fd


def forget_file(fd: int) -> None:
    """Take away the name of what `memory_file` made, if it has one; its bytes go with the last who has it open."""
    path = _path_of(fd)
    if path.suffix == _BLOB:
        path.unlink(missing_ok=True)


class RamFolder:
    """What is in such a folder, for the agent that holds the copies."""

    def __init__(self, path: Path) -> None:
        """Raises: StorageError: it is not in memory, or cannot be made."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            kind = _file_system(path)
        except OSError as error:
            raise StorageError(
                f"{path}: {error.strerror}; name a folder on tmpfs that this user may write to"
            ) from error
        if kind not in _IN_MEMORY:
            raise StorageError(f"{path} is on {kind}, not in memory; name a folder on tmpfs, such as in /dev/shm")
        self.path = path
        self._notes: dict[Path, Note] = {}

    def note(self, fd: int, note: Note) -> None:
        """The file open as `fd` holds that copy. Of one that is elsewhere, or has lost its name, nothing is noted."""
        path = _path_of(fd)
        if path.parent != self.path or path.suffix != _BLOB:
            return
        digest = note.digest
        text = json.dumps(
            {
                "origin": note.origin,
                "layer": note.layer,
                "step": note.step,
                "generation": note.generation,
                "size": digest.size,
                "chunk_bytes": digest.chunk_bytes,
                "chunks": digest.chunks,
            }
        )
        new = path.with_suffix(".new")
        try:
            new.write_text(text)
            new.rename(path.with_suffix(_NOTE))
            self._notes[path] = note
        except OSError as error:  # no room: then it does not outlive this agent
            log.warning("ram.not_noted", extra={"path": str(path), "error": str(error)})
            new.unlink(missing_ok=True)

    def forget(self, fd: int, note: Note) -> None:
        """The file open as `fd` is that copy no more; another one perhaps, if whoever made it used it again."""
        path = _path_of(fd)
        if self._notes.get(path) == note:
            del self._notes[path]
            path.with_suffix(_NOTE).unlink(missing_ok=True)
            if not _is_used(path):
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what no note speaks of and nobody alive has made."""
        for path in self.path.iterdir():
            if path.suffix == _BLOB and (path.with_suffix(_NOTE).exists() or _is_used(path)):
                continue
            if path.suffix == _NOTE and path.with_suffix(_BLOB).exists():
                continue
            path.unlink(missing_ok=True)

    def recall(self) -> Iterator[tuple[Path, Note]]:
        """What the agent before held, by file; notes that cannot be read are removed."""
        for path in sorted(self.path.glob(f"*{_NOTE}")):
            try:
                note = _read(path.read_bytes())
            except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
                log.warning("ram.note_unreadable", extra={"path": str(path), "error": repr(error)})
                path.unlink(missing_ok=True)
                continue
            yield path.with_suffix(_BLOB), note

    def close(self) -> None:
        """The node leaves as planned: the folder goes with all that is in it, and its parent if that was all."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self.path.parent.rmdir()


def _read(text: bytes) -> Note:
    fields = json.loads(text)
    digest = Digest(size=fields["size"], chunks=tuple(fields["chunks"]), chunk_bytes=fields["chunk_bytes"])
    numbers = [int(fields[name]) for name in ("layer", "step", "generation")]
    return Note(origin=str(fields["origin"]), layer=numbers[0], step=numbers[1], generation=numbers[2], digest=digest)


def _path_of(fd: int) -> Path:
    """By which it was opened; of one that has lost its name, no file's."""
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


def _maker(path: Path) -> str:
    """The process that made it."""
    return path.name.partition("-")[0]


def _is_used(path: Path) -> bool:
    """Whether the process that made it lives."""
    maker = _maker(path)
    return maker == _process(maker.partition(".")[0])


def _process(pid: int | str) -> str:
    """The name of that process for all time since the machine was started: its number, and when it began. Numbers come
    again, the sooner where each container counts anew."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return f"{pid}.{after_name[19]}"


def _file_system(path: Path) -> str:
    """The kind of the innermost mount that `path` lies in."""
    real, found = path.resolve(), {}
    for line in _MOUNTS.read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        found[Path(fields.split()[4].encode().decode("unicode_escape"))] = kind.split()[0]
    return next(found[folder] for folder in (real, *real.parents) if folder in found)
