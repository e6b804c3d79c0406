"""Copies in a folder on tmpfs are found again by the next agent of the node, and nothing is left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageError
from holdfast_checkpoint.header import lay_out
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.ram import RamTier
from holdfast_checkpoint.ram_folder import RamFolder
from holdfast_checkpoint.snapshot import Snapshotter


@pytest.fixture
def folder() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm that this user may write to")
    with TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made) / "node"


def tier_in(folder: Path) -> RamTier:
    return RamTier(RamFolder(folder))


def blob(step: int) -> bytes:
    _, head = lay_out([("x", "U8", (100,))], {"step": str(step), "generation": "1"})
    return head + bytes(range(100))


def receive(tier: RamTier, step: int) -> None:
    data = blob(step)
    incoming = tier.new_buffer(0, step, 1, len(data), "peer:b")
    incoming.memory[:] = data
    incoming.commit(digest_of(data))


# A worker that takes a snapshot and tells of it, as one line for each blob: layer, path, size, checksums.
WORKER = """
import sys, torch
from pathlib import Path
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter
snapshotter = Snapshotter(folder=Path(sys.argv[1]))
for step in (1, 2):
    state = LayerState(name="one", tensors={"x": torch.full((1000,), float(step))}, scalars={})
    snapshotter.begin(step, 1, {0: state}, None)
    for blob in snapshotter.wait(lambda: None).blobs:
        print(f"/proc/{__import__('os').getpid()}/fd/{blob.fd}", blob.digest.size, *blob.digest.chunks, flush=True)
sys.stdin.read()
"""


def test_a_new_agent_has_what_the_one_before_received_and_what_a_dead_worker_copied(folder: Path) -> None:
    first = tier_in(folder)
    receive(first, 3)
    command = [sys.executable, "-c", WORKER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for step in (1, 2):
            path, size, *chunks = worker.stdout.readline().split()
            data = Path(path).read_bytes()
            assert (len(data), digest_of(data).chunks) == (int(size), tuple(chunks))
            first.adopt("own:0", 0, step, 1, path, digest_of(data))
        worker.kill()
    # The agent dies without a word: what it has open goes, the names stay.

    second = tier_in(folder)
    assert second.recall() == 3
    assert dict(second.versions()) == {(step, 1): frozenset({0}) for step in (1, 2, 3)}
    for step in (1, 2, 3):
        (copy,) = second.find(0, step, 1)
        second.verify(copy)
        assert copy.kind == ("peer" if step == 3 else "own")
    second.close()
    assert not folder.exists(), "nothing is left behind"


def test_what_was_being_written_is_not_taken_for_a_copy(folder: Path) -> None:
    tier, snapshotter = tier_in(folder), Snapshotter(folder=folder)
    state = LayerState(name="one", tensors={"x": torch.zeros(1000)}, scalars={})
    snapshotter.begin(1, 1, {0: state}, None)
    taken = snapshotter.wait(lambda: None)
    assert taken is not None
    (held,) = taken.blobs
    tier.adopt("own:0", 0, 1, 1, f"/proc/self/fd/{held.fd}", held.digest)
    os.pwrite(held.fd, bytes(8), 0)  # as a worker does before it writes the next one, and is killed

    again = tier_in(folder)
    assert again.recall() == 0
    assert not dict(again.versions())
    snapshotter.close()


def test_a_byte_that_changed_meanwhile_is_found(folder: Path) -> None:
    receive(tier_in(folder), 3)
    (path,) = folder.glob("*.blob")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    again = tier_in(folder)
    assert again.recall() == 1
    (copy,) = again.find(0, 3, 1)
    with pytest.raises(CorruptError, match="layer 0, step 3"):
        again.verify(copy)


def test_notes_that_cannot_be_read_and_blobs_without_one_are_removed(folder: Path) -> None:
    first = tier_in(folder)
    for step in (1, 2, 3):
        receive(first, step)
    first_note, second_note, _ = sorted(folder.glob("*.json"))
    first_note.write_text("{")
    second_note.unlink()
    for path in folder.iterdir():  # as of a process that is gone
        path.rename(path.with_name(f"1.1-{path.name.partition('-')[2]}"))

    assert tier_in(folder).recall() == 1
    assert len(list(folder.iterdir())) == 2, "one blob and its note"


def test_a_dropped_copy_gives_its_memory_back_and_a_live_worker_keeps_its_buffers(folder: Path) -> None:
    tier, snapshotter = tier_in(folder), Snapshotter(folder=folder)
    for step in (1, 2, 3, 4):
        state = LayerState(name="one", tensors={"x": torch.full((1000,), float(step))}, scalars={})
        snapshotter.begin(step, 1, {0: state}, None)
        taken = snapshotter.wait(lambda: None)
        assert taken is not None
        tier.adopt("own:0", 0, step, 1, f"/proc/self/fd/{taken.blobs[0].fd}", taken.blobs[0].digest)
        receive(tier, 10 + step)
    tier.keep_only(lambda copy: copy.step == 4)
    assert len(list(folder.glob("*.json"))) == 1
    tier.sweep()
    assert len(list(folder.glob("*.blob"))) == 2, "a worker has two buffers for a layer, however many copies it made"
    snapshotter.close()
    assert not list(folder.glob("*.blob"))


def test_a_folder_that_is_not_in_memory_is_refused(tmp_path: Path) -> None:
    kinds = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.strip()
    if kinds == "tmpfs":
        pytest.skip("the folder of tests is in memory here")
    with pytest.raises(StorageError, match=r"not in memory; name a folder on tmpfs"):
        RamFolder(tmp_path / "node")
