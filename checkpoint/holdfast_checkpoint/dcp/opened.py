"""One committed checkpoint, opened for reading: boxes of its tensors into the caller's tensors, verified."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from holdfast_checkpoint.dcp.agent_copies import agent_copies
from holdfast_checkpoint.dcp.catalog import saved_state
from holdfast_checkpoint.dcp.host_memory import HostMemory
from holdfast_checkpoint.dcp.landing import Landing, landings, waves
from holdfast_checkpoint.dcp.local_agent import LocalAgent
from holdfast_checkpoint.dcp.ranges import Wanted, read_ranges
from holdfast_checkpoint.dcp.saved import SavedChunk, SavedState
from holdfast_checkpoint.dcp.sources import LocalSource, Source, source_of
from holdfast_checkpoint.manifest import Manifest
from holdfast_checkpoint.remote import Repository

_ASIDE_BYTES_MAX = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What `target` is to hold: the box of its shape that begins at `offsets` of `chunk` of tensor `name`."""

    name: str
    chunk: SavedChunk
    offsets: tuple[int, ...]
    target: Tensor


class OpenCheckpoint:
    """Files are opened when they are first read, its headers at once; and closed with it."""

    def __init__(
        self, repository: Repository, folder: str, manifest: Manifest, agent: LocalAgent | None = None
    ) -> None:
        """`agent`: of this machine. Raises: CheckpointError: what the manifest says does not make up whole tensors."""
        self.repository, self.folder, self.manifest = repository, folder, manifest
        self._blobs = {entry.layer: entry for entry in manifest.blobs}
        # This host's memory first, if a writer left copies there.
        near: list[Source] = [
            LocalSource(copies, is_optional=True) for copies in HostMemory(repository.url).copies(folder)
        ]
        near += agent_copies(agent, folder) if agent is not None else []
        self._sources: list[Source] = [*near, source_of(repository, folder)]
        try:
            self.state: SavedState = saved_state(self._sources, manifest, f"{repository.url}/{folder}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "OpenCheckpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """For now: what is read next opens files anew."""
        for source in self._sources:
            source.close()

    def read(self, boxes: Sequence[Box], threads: int | None = None) -> None:
        """Fill every box. After an error, targets hold anything.

        Raises: CorruptError, StorageError: names the blob, the bytes and the tensors.
        """
        found: list[Landing] = []
        for box in boxes:
            found += landings(box.name, self.state.tensors[box.name].dtype, box.chunk, box.offsets, box.target)
        for wave in waves(found, _ASIDE_BYTES_MAX):
            self._read_wave(wave, threads)

    def read_tensors(self, targets: Sequence[tuple[str, Tensor]], threads: int | None = None) -> None:
        """Whole tensors, each into memory of its shape."""
        self.read([box for name, target in targets for box in self._boxes(name, target)], threads)

    def _boxes(self, name: str, target: Tensor) -> Iterator[Box]:
        for chunk in self.state.tensors[name].chunks:
            part = target
            for dim, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                part = part.narrow(dim, offset, size)
            yield Box(name=name, chunk=chunk, offsets=(0,) * len(chunk.sizes), target=part)

    def _read_wave(self, wave: Sequence[Landing], threads: int | None) -> None:
        memories = [landing.memory() for landing in wave]
        wanted = [
            Wanted(entry=self._blobs[landing.blob], start=landing.start, view=view, name=landing.name)
            for landing, (view, _) in zip(wave, memories, strict=True)
        ]
        read_ranges(wanted, self._sources, threads=threads, on_done=lambda at: wave[at].settle(memories[at][1]))
