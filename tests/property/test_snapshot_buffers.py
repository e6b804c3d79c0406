"""Whatever happens between two snapshots, the kept one is never touched, and only whole copies are told of."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_checkpoint import copying, copyist
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.layer_blob import LayerState, map_blob, read_layer
from holdfast_checkpoint.ram import RamTier
from holdfast_checkpoint.snapshot import Snapshotter, Taken
from holdfast_checkpoint.sparing import choose

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoint"
VERSIONS = st.tuples(st.integers(0, 5), st.integers(1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """`keep`: which of the snapshots that were whole before, the newest being 0. `dies_in`: the copy fails in the
    midst of that layer, counted within the attempt. `is_told`: whether the holder hears of the overwriting."""

    layers: frozenset[int]
    keep: int
    dies_in: int | None
    size: int  # of the tensors
    is_told: bool
    is_redone: bool  # the step before, once more


ATTEMPTS = st.lists(
    st.builds(
        Attempt,
        layers=st.frozensets(st.integers(0, 2), min_size=1),
        keep=st.integers(0, 3),
        dies_in=st.one_of(st.none(), st.integers(0, 2)),
        size=st.sampled_from([7, 7, 7, 2000]),
        is_told=st.booleans(),
        is_redone=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def state(version: tuple[int, int], layer: int, size: int) -> LayerState:
    value = version[0] * 1000 + version[1] * 100 + layer
    return LayerState(name=f"layer {layer}", tensors={"a": torch.full((size,), float(value))}, scalars={"n": value})


@contextmanager
def failing(layer: int | None) -> Iterator[None]:
    """The copy of that layer, in the order of the attempt, breaks off after its first piece."""
    real, calls = copying.copy_from_host, iter(range(100))

    def copy_from_host(buffer, head, runs, is_stopped):  # type: ignore[no-untyped-def]
        if next(calls) == layer:
            buffer.view[len(head) : len(head) + 4] = b"torn"
            raise KeyError("broken off")
        return real(buffer, head, runs, is_stopped)

    with mock.patch.object(copyist, "copy_from_host", copy_from_host):
        yield


class World:
    """A worker with its snapshots, and the agent that holds them open."""

    def __init__(self) -> None:
        self.snapshotter, self.tier = Snapshotter(), RamTier()
        self.sizes: dict[tuple[tuple[int, int], int], int] = {}  # of what was ever whole
        self.steps: list[tuple[int, int]] = []  # of which a snapshot was whole, newest last

    def close(self) -> None:
        self.snapshotter.close()
        self.tier.close()

    def attempt(self, step: int, attempt: Attempt) -> None:
        version = self.steps[-1] if attempt.is_redone and self.steps else (step, 1 + step % 2)
        keep = self.steps[-1 - attempt.keep] if attempt.keep < len(self.steps) else None
        kept = self.held_of(keep)
        # One state for a version: its size is that of the first attempt at it.
        size = next((size for (other, _), size in self.sizes.items() if other == version), attempt.size)
        if attempt.is_told:
            self.tier.keep_only(lambda copy: copy.version == keep)
        with failing(attempt.dies_in):
            self.snapshotter.begin(*version, {layer: state(version, layer, size) for layer in attempt.layers}, keep)
            try:
                taken = self.snapshotter.wait(lambda: None)
            except StorageError:
                taken = None
        if taken is not None:
            self.adopt(taken, version, size)
        assert kept.items() <= self.held_of(keep).items()
        self.check()

    def adopt(self, taken: Taken, version: tuple[int, int], size: int) -> None:
        for blob in taken.blobs:
            self.tier.adopt("own:0", blob.layer, *version, f"/proc/self/fd/{blob.fd}", blob.digest)
            self.sizes[version, blob.layer] = size
        self.steps = [other for other in self.steps if other != version] + [version]

    def held_of(self, version: tuple[int, int] | None) -> Mapping[int, bytes]:
        """The bytes of all copies of that version."""
        if version is None:
            return {}
        held = {}
        for layer in self.tier.versions().get(version, ()):
            (copy,) = self.tier.find(layer, *version)
            held[layer] = Path(copy.file.path).read_bytes()
        return held

    def check(self) -> None:
        """All that the holder tells of is whole and right."""
        for version, layers in self.tier.versions().items():
            for layer in layers:
                (copy,) = self.tier.find(layer, *version)
                self.tier.verify(copy)
                blob = read_layer(map_blob(copy.file.path))
                expected = state(version, layer, self.sizes[version, layer])
                assert (blob.step, blob.generation, blob.scalars) == (*version, expected.scalars)
                assert torch.equal(blob.tensors["a"], expected.tensors["a"])


@settings(max_examples=120)
@given(ATTEMPTS)
def test_no_attempt_touches_the_kept_version_and_only_whole_copies_are_told_of(attempts: list[Attempt]) -> None:
    with closing(World()) as world:
        for step, attempt in enumerate(attempts):
            world.attempt(step, attempt)


@settings(max_examples=500)
@given(st.lists(st.one_of(st.none(), VERSIONS), min_size=2, max_size=2), VERSIONS, st.one_of(st.none(), VERSIONS))
def test_the_buffer_chosen_is_never_the_kept_one_and_makes_no_second_of_a_version(
    held: list[tuple[int, int] | None], version: tuple[int, int], keep: tuple[int, int] | None
) -> None:
    if held[0] == held[1] and held[0] is not None:
        held[1] = None
    at = choose(held, version, keep)
    if at is None:
        assert version in held
        assert version == keep
        return
    assert held[at] is None or held[at] != keep
    after = [version if place == at else other for place, other in enumerate(held)]
    assert after.count(version) == 1


WORKER = """
import sys, threading, time
import torch
from holdfast_checkpoint import copying
from holdfast_checkpoint.layer_blob import LayerState
from holdfast_checkpoint.snapshot import Snapshotter

def layers(value):
    return {n: LayerState(name=str(n), tensors={"a": torch.full((700_000,), value + n)}, scalars={}) for n in (0, 1)}

def tell(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

snapshotter = Snapshotter()
for step in (1, 2):
    snapshotter.begin(step, 1, layers(float(step)), (step - 1, 1))
    for blob in snapshotter.wait(lambda: None).blobs:
        tell(step, blob.layer, blob.fd, blob.digest.size, *blob.digest.chunks)
sys.stdin.readline()
copying.PIECE_BYTES = 1 << 18
move, moves = copying._move, iter(range(1000))

def stuck(*arguments):
    if next(moves) == 15:  # the first layer is through, the second in the midst
        tell("midway")
        threading.Event().wait()
    move(*arguments)

copying._move = stuck
snapshotter.begin(3, 1, layers(3.0), (1, 1))
snapshotter.wait(lambda: None)
"""

RESPAWNED = """
import sys
import torch
from holdfast_checkpoint.layer_blob import map_blob, read_layer
for layer, path in enumerate(sys.argv[1:]):
    blob = read_layer(map_blob(path))
    assert (blob.step, blob.name) == (1, str(layer)), blob
    assert torch.equal(blob.tensors["a"], torch.full((700_000,), 1.0 + layer))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKPOINT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_worker_killed_in_mid_copy_leaves_whole_copies_from_which_a_new_one_starts() -> None:
    tier = RamTier()
    with start(WORKER) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        for _ in range(4):
            step, layer, fd, size, *chunks = worker.stdout.readline().split()
            digest = Digest(size=int(size), chunks=tuple(chunks))
            tier.adopt("own:0", int(layer), int(step), 1, f"/proc/{worker.pid}/fd/{fd}", digest)
        assert tier.versions() == {(1, 1): {0, 1}, (2, 1): {0, 1}}
        worker.stdin.write("go on\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "midway\n"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    # Nobody said what was being overwritten.
    assert tier.versions() == {(1, 1): {0, 1}}
    copies = [tier.find(layer, 1, 1)[0] for layer in (0, 1)]
    for copy in copies:
        tier.verify(copy)
    paths = [f"/proc/{os.getpid()}/fd/{copy.file.fileno()}" for copy in copies]
    with start(RESPAWNED, *paths) as respawned:
        assert respawned.wait() == 0
    tier.close()
