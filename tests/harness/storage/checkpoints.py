"""Small checkpoints with known content, and what is done to them."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from holdfast_checkpoint.digest import Digest, Hasher
from holdfast_checkpoint.folders import folder_of
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.remote import Repository

RUN = "3f2a9c1b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`contents`: of its layers."""

    manifest: Manifest
    contents: tuple[bytes, ...]

    @property
    def folder(self) -> str:
        return folder_of(self.manifest.step, self.manifest.run, self.manifest.generation)


def digest_in_chunks(data: bytes, chunk_bytes: int) -> Digest:
    hasher = Hasher(chunk_bytes)
    hasher.update(data)
    return hasher.digest()


def made(
    step: int,
    sizes: Sequence[int] = (0, 1, 1000, 70_000),
    *,
    generation: int = 1,
    run: str = RUN,
    created: str = "2025-01-02T03:04:05Z",
    chunk_bytes: int = 4096,
) -> Checkpoint:
    """The same for the same arguments."""
    chance = random.Random(f"{step} {generation} {run}")
    contents = tuple(chance.randbytes(size) for size in sizes)
    blobs = tuple(
        BlobEntry(
            layer=layer,
            name=f"layer-{layer}",
            path=f"{layer:05d}.safetensors",
            digest=digest_in_chunks(content, chunk_bytes),
        )
        for layer, content in enumerate(contents)
    )
    identity: Mapping[str, object] = {"model": "toy"}
    manifest = Manifest(
        step=step, generation=generation, run=run, job="toy", samples=step * 8, created=created, identity=identity,
        spec={}, blobs=blobs,
    )  # fmt: skip
    return Checkpoint(manifest=manifest, contents=contents)


@contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """The path of a memfd, as an agent hands it over."""
    file = os.memfd_create("layer")
    try:
        os.write(file, content)
        yield f"/proc/self/fd/{file}"
    finally:
        os.close(file)


def store_blobs(repository: Repository, checkpoint: Checkpoint) -> None:
    for entry, content in zip(checkpoint.manifest.blobs, checkpoint.contents, strict=True):
        with in_memory(content) as source:
            assert repository.put_blob(checkpoint.folder, entry.layer, source, entry.digest) == entry.path


def store(repository: Repository, checkpoint: Checkpoint) -> None:
    store_blobs(repository, checkpoint)
    repository.commit(checkpoint.folder, checkpoint.manifest)


def read_blob(repository: Repository, folder: str, entry: BlobEntry) -> bytes:
    data = bytearray(entry.size)
    repository.read_blob_into(folder, entry, memoryview(data))
    return bytes(data)


def is_whole(repository: Repository, checkpoint: Checkpoint) -> bool:
    """Whether all of it reads back bit for bit; whatever is wrong with it is raised."""
    manifest = repository.read_manifest(checkpoint.folder)
    contents = tuple(read_blob(repository, checkpoint.folder, entry) for entry in manifest.blobs)
    return manifest == checkpoint.manifest and contents == checkpoint.contents
