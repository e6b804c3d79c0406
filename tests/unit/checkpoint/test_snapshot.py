"""Snapshots: what was there at `begin` comes back bit for bit, and a copy that was not finished is no copy."""

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from harness.waiting import wait_until
from holdfast_checkpoint import buffers, copying, copyist
from holdfast_checkpoint.digest import CHUNK_BYTES, digest_of
from holdfast_checkpoint.errors import FormatError, StorageError
from holdfast_checkpoint.layer_blob import LayerBlob, LayerState, map_blob, read_layer
from holdfast_checkpoint.snapshot import Snapshotter, Taken


@pytest.fixture
def snapshotter() -> Iterator[Snapshotter]:
    made = Snapshotter()
    yield made
    made.close()


def state(value: float = 1.0, *, name: str = "block", scalars: Mapping[str, object] | None = None) -> LayerState:
    tensors = {"model.weight": torch.full((40, 30), value), "optim.step": torch.tensor(value)}
    return LayerState(name=name, tensors=tensors, scalars=scalars or {})


def no_beat() -> None:
    pass


def take(
    snapshotter: Snapshotter, step: int, layers: Mapping[int, LayerState], keep: tuple[int, int] | None = None
) -> Taken:
    snapshotter.begin(step, 1, layers, keep)
    taken = snapshotter.wait(no_beat)
    assert taken is not None
    return taken


def content(fd: int) -> bytes:
    return Path(f"/proc/self/fd/{fd}").read_bytes()


def read(taken: Taken, layer: int) -> LayerBlob:
    (blob,) = [blob for blob in taken.blobs if blob.layer == layer]
    return read_layer(map_blob(f"/proc/self/fd/{blob.fd}"))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def same_bits(left: Tensor, right: Tensor) -> bool:
    def as_bytes(tensor: Tensor) -> Tensor:
        return tensor.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)

    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(as_bytes(left), as_bytes(right))


class Gate:
    """Holds the copying thread up in the midst of a layer, after `after` of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._left, self._copy = after, copying.copy_from_host
        monkeypatch.setattr(copyist, "copy_from_host", self._copy_slowly)

    def _copy_slowly(self, *arguments: object) -> object:
        self._left -= 1
        if self._left < 0:
            self.reached.set()
            assert self.opened.wait(60)
        return self._copy(*arguments)  # type: ignore[arg-type]


def test_state_comes_back_bit_for_bit_whatever_it_is_made_of(snapshotter: Snapshotter) -> None:
    base = torch.randn(600, 700)
    tensors = {
        "bf16": torch.randn(33).bfloat16(),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.randn(5, dtype=torch.complex64).conj(),
        "double": torch.randn(7, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "f8": torch.randn(9).to(torch.float8_e4m3fn),
        "half": torch.randn(11).half(),
        "long": torch.tensor(2**62 + 1),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "parameter": torch.nn.Parameter(torch.randn(3, 4)).detach(),
        "part": base[100:200, 3:9],
        "turned": base.t(),
        "uint16": torch.tensor([65535], dtype=torch.uint16),
        "whole": base,
        "whole again": base,
    }
    scalars = {"optim.lr": 0.1 + 0.2, "optim.none": None, "optim.list": [1, "é"], "optim.inf": float("inf")}
    taken = take(snapshotter, 7, {3: LayerState(name="layer é", tensors=tensors, scalars=scalars)})

    blob = read(taken, 3)
    assert blob.tensors.keys() == tensors.keys()
    assert [name for name in tensors if not same_bits(blob.tensors[name], tensors[name])] == []
    assert (blob.name, blob.step, blob.generation, blob.scalars) == ("layer é", 7, 1, scalars)
    assert blob.devices == {}


def test_a_blob_is_a_safetensors_file(snapshotter: Snapshotter) -> None:
    taken = take(snapshotter, 7, {0: state(2.5)})
    with safe_open(f"/proc/self/fd/{taken.blobs[0].fd}", framework="pt") as file:
        assert {name: file.get_tensor(name).sum().item() for name in file.keys()} == {  # noqa: SIM118 - no mapping
            "model.weight": 3000.0,
            "optim.step": 2.5,
        }
        assert file.metadata()["step"] == "7"


def test_a_layer_without_state_is_a_blob_too(snapshotter: Snapshotter) -> None:
    taken = take(snapshotter, 1, {0: LayerState(name="relu", tensors={}, scalars={})})
    assert read(taken, 0).tensors == {}
    with safe_open(f"/proc/self/fd/{taken.blobs[0].fd}", framework="pt") as file:
        assert list(file.keys()) == []


@pytest.mark.parametrize("numbers", [1, 1000, copying.PIECE_BYTES // 4, copying.PIECE_BYTES, 5_000_001])
def test_the_digest_is_of_the_bytes_that_are_there(snapshotter: Snapshotter, numbers: int) -> None:
    tensors = {"a": torch.randn(numbers), "b": torch.randn(17), "c": torch.randn(3, numbers).t()}
    taken = take(snapshotter, 1, {0: LayerState(name="x", tensors=tensors, scalars={})})
    assert taken.blobs[0].digest == digest_of(content(taken.blobs[0].fd))


def test_copies_of_a_version_have_the_same_bytes_whatever_was_copied_before(snapshotter: Snapshotter) -> None:
    take(snapshotter, 9, {0: state(1.0, scalars={"optim.n": 9})})
    take(snapshotter, 10, {0: state(2.0, scalars={"optim.n": 10})})
    late = take(snapshotter, 100, {0: state(3.0, scalars={"optim.n": 100})})
    other = Snapshotter()
    first = take(other, 100, {0: state(3.0, scalars={"optim.n": 100})})
    assert content(late.blobs[0].fd) == content(first.blobs[0].fd)
    assert late.blobs[0].digest == first.blobs[0].digest
    other.close()


def test_begin_returns_before_anything_is_copied(snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    snapshotter.begin(1, 1, {0: state(4.0)}, None)
    assert gate.reached.wait(60)
    assert not snapshotter.is_done

    beats: list[None] = []

    def beat() -> None:
        beats.append(None)
        gate.opened.set()

    taken = snapshotter.wait(beat)
    assert taken is not None
    assert beats
    assert snapshotter.is_done
    assert read(taken, 0).tensors["optim.step"] == 4.0


def test_waiting_for_nothing_gives_nothing(snapshotter: Snapshotter) -> None:
    assert snapshotter.is_done
    assert snapshotter.wait(no_beat) is None
    take(snapshotter, 1, {0: state()})
    assert snapshotter.wait(no_beat) is None


def test_a_wait_that_was_broken_off_can_be_taken_up_again(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    snapshotter.begin(1, 1, {0: state(4.0)}, None)

    def abort() -> None:
        raise ConnectionError("a peer was lost")

    with pytest.raises(ConnectionError):
        snapshotter.wait(abort)
    gate.opened.set()
    taken = snapshotter.wait(no_beat)
    assert taken is not None
    assert read(taken, 0).tensors["optim.step"] == 4.0


def test_the_kept_copy_is_whole_while_the_next_is_written(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = take(snapshotter, 1, {0: state(1.0)})
    before = content(kept.blobs[0].fd)
    newer = take(snapshotter, 2, {0: state(2.0)}, keep=(1, 1))
    gate = Gate(monkeypatch)
    snapshotter.begin(3, 1, {0: state(3.0)}, (1, 1))
    assert gate.reached.wait(60)
    assert content(kept.blobs[0].fd) == before
    with pytest.raises(FormatError):  # what is being overwritten does not look whole
        read(newer, 0)
    gate.opened.set()
    snapshotter.wait(no_beat)
    assert content(kept.blobs[0].fd) == before


def test_a_kept_version_is_not_copied_again(snapshotter: Snapshotter) -> None:
    first = take(snapshotter, 5, {0: state(1.0)})
    again = take(snapshotter, 5, {0: state(1.0), 1: state(2.0)}, keep=(5, 1))
    assert again.blobs[0] == first.blobs[0]
    assert [blob.layer for blob in again.blobs] == [0, 1]


def test_the_same_version_is_never_held_twice(snapshotter: Snapshotter) -> None:
    take(snapshotter, 4, {0: state(1.0)})
    first = take(snapshotter, 5, {0: state(1.0)}, keep=(4, 1))
    for keep in ((4, 1), None):
        again = take(snapshotter, 5, {0: state(2.0)}, keep=keep)
        assert again.blobs[0].fd == first.blobs[0].fd


def test_a_layer_of_another_size_leaves_what_others_have_open(snapshotter: Snapshotter) -> None:
    first = take(snapshotter, 1, {0: state(1.0)})
    take(snapshotter, 2, {0: state(2.0)})
    with open(f"/proc/self/fd/{first.blobs[0].fd}", "rb") as held:
        larger = LayerState(name="block", tensors={"model.weight": torch.zeros(9000)}, scalars={})
        taken = take(snapshotter, 3, {0: larger})
        assert read_layer(held.read()).tensors["optim.step"] == 1.0
    assert read(taken, 0).tensors.keys() == {"model.weight"}


def test_a_layer_has_two_buffers_and_no_more(snapshotter: Snapshotter) -> None:
    before = descriptors()
    for step in range(1, 6):
        take(snapshotter, step, {0: state(step), 1: state(step)}, keep=(step - 1, 1))
    assert len(descriptors() - before) == 4


def test_scalars_that_grow_beyond_a_page_are_kept(snapshotter: Snapshotter) -> None:
    take(snapshotter, 1, {0: state(scalars={"optim.text": "a"})})
    taken = take(snapshotter, 2, {0: state(scalars={"optim.text": "a" * 5000})})
    assert read(taken, 0).scalars == {"optim.text": "a" * 5000}
    assert read(taken, 0).tensors["model.weight"].data_ptr() % 4 == 0


@pytest.mark.parametrize(
    ("tensors", "scalars", "named"),
    [
        ({"a.sparse": torch.eye(3).to_sparse()}, {}, "a.sparse"),
        ({"a.wide": torch.zeros(3, dtype=torch.complex128)}, {}, "a.wide"),
        ({}, {"a.set": {1, 2}}, "a.set"),
    ],
)
def test_state_that_no_blob_can_hold_is_named(
    snapshotter: Snapshotter, tensors: dict[str, Tensor], scalars: dict[str, object], named: str
) -> None:
    snapshotter.begin(1, 1, {0: LayerState(name="odd", tensors=tensors, scalars=scalars)}, None)
    with pytest.raises(FormatError, match=rf"'odd'.*{named}"):
        snapshotter.wait(no_beat)


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EMFILE])
def test_no_room_for_a_copy_is_told_and_leaves_the_kept_one(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    kept = take(snapshotter, 1, {0: state(1.0)})
    before = content(kept.blobs[0].fd)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", refuse)
        snapshotter.begin(2, 1, {0: state(2.0)}, (1, 1))
        with pytest.raises(StorageError, match=r"layer 0 \('block', \d+ bytes\).*more memory"):
            snapshotter.wait(no_beat)
    assert snapshotter.is_done
    assert content(kept.blobs[0].fd) == before
    assert read(take(snapshotter, 2, {0: state(2.0)}, keep=(1, 1)), 0).tensors["optim.step"] == 2.0


def test_memory_that_is_not_there_is_an_error_and_no_signal() -> None:
    with pytest.raises(OSError, match="memory"):
        buffers.Buffer("x", 1 << 60)


def test_forgotten_layers_give_back_their_memory_once_the_copy_is_made(
    snapshotter: Snapshotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    gate = Gate(monkeypatch, after=1)
    snapshotter.begin(1, 1, {0: state(1.0), 1: state(2.0)}, None)
    assert gate.reached.wait(60)
    gate.opened.set()
    snapshotter.forget([1, 5])
    taken = snapshotter.wait(no_beat)
    assert taken is not None
    assert [blob.layer for blob in taken.blobs] == [0]
    assert len(descriptors() - before) == 1
    snapshotter.forget([0])
    assert descriptors() == before


def test_closing_gives_up_a_copy_and_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = descriptors(), threading.active_count()
    snapshotter = Snapshotter()
    take(snapshotter, 1, {0: state()})
    gate = Gate(monkeypatch)
    snapshotter.begin(2, 1, {0: state()}, (1, 1))
    assert gate.reached.wait(60)
    threading.Timer(0.0, gate.opened.set).start()
    snapshotter.close()
    assert descriptors() == before
    assert threading.active_count() <= threads + 1  # the timer's


def test_tensors_are_let_go_of_once_copied(snapshotter: Snapshotter) -> None:
    held = state()
    watch = weakref.ref(held.tensors["model.weight"])
    taken = take(snapshotter, 1, {0: held})
    del held
    wait_until(lambda: watch() is None)  # once the copying thread is about to sleep
    assert taken.blobs


def test_the_copying_thread_gives_way_to_training(snapshotter: Snapshotter) -> None:
    take(snapshotter, 1, {0: state()})
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "snapshot"]
    assert thread.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) > os.getpriority(os.PRIO_PROCESS, 0)


def test_what_is_written_to_tensors_read_from_a_copy_stays_with_the_reader(snapshotter: Snapshotter) -> None:
    taken = take(snapshotter, 1, {0: state(1.0)})
    read(taken, 0).tensors["model.weight"].zero_()
    assert read(taken, 0).tensors["model.weight"].sum() == 1200.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\0" * 8 + data[8:],
        lambda data: data.replace(b'"generation"', b'"generatioN"'),
        lambda data: b"",
    ],
)
def test_what_is_no_blob_is_refused(snapshotter: Snapshotter, damage: Callable[[bytes], bytes]) -> None:
    data = content(take(snapshotter, 1, {0: state()}).blobs[0].fd)
    with pytest.raises(FormatError):
        read_layer(damage(data))


@pytest.mark.parametrize("head_bytes", [8, 4096, CHUNK_BYTES - 1, CHUNK_BYTES + 5])
def test_a_digest_made_of_chunks_side_by_side_is_the_same(head_bytes: int) -> None:
    buffer = buffers.Buffer("x", 2 * CHUNK_BYTES + 100)
    buffer.bytes[::1000] = 7
    head = bytes(at % 250 for at in range(head_bytes))
    with ThreadPoolExecutor(2) as pool:
        digest = copying.digest_by_chunks(buffer, head, pool)
    assert digest == digest_of(head + bytes(buffer.view[head_bytes:]))
    buffer.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_state_on_a_gpu_is_copied_behind_the_kernels_that_make_it(snapshotter: Snapshotter) -> None:
    for step in (1, 2, 3):
        big = torch.full((5000, 1000), float(step), device="cuda")
        for _ in range(50):
            big = big + 1.0
        tensors = {"big": big, "turned": big[:70, :30].t(), "count": torch.tensor(float(step))}
        snapshotter.begin(step, 1, {0: LayerState(name="x", tensors=tensors, scalars={})}, (step - 1, 1))
        taken = snapshotter.wait(no_beat)
        assert taken is not None
        blob = read(taken, 0)
        assert all(torch.equal(blob.tensors[name], tensor.cpu()) for name, tensor in tensors.items())
        assert blob.devices == {"big": "cuda", "turned": "cuda"}
        assert taken.blobs[0].digest == digest_of(content(taken.blobs[0].fd))
