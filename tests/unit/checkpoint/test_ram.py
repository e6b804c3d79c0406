"""The agent's copies in RAM outlive the worker that made them, and only whole ones are told of."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.waiting import wait_until
from holdfast_checkpoint.digest import CHUNK_BYTES, digest_of
from holdfast_checkpoint.errors import CorruptError, StorageError
from holdfast_checkpoint.header import LENGTH, lay_out
from holdfast_checkpoint.ram import Copy, RamTier


@pytest.fixture
def tier() -> Iterator[RamTier]:
    made = RamTier()
    yield made
    made.close()


def blob(step: int, generation: int = 1, numbers: int = 100) -> bytes:
    """As a worker writes it."""
    _, head = lay_out([("x", "U8", (numbers,))], {"step": str(step), "generation": str(generation)})
    return head + bytes(at % 251 for at in range(numbers))


class Owner:
    """Stands for a worker: a memfd that it writes to, and that goes when it dies."""

    def __init__(self, data: bytes) -> None:
        self.fd = os.memfd_create("test")
        self.path = f"/proc/self/fd/{self.fd}"
        self.write(data)

    def write(self, data: bytes, offset: int = 0) -> None:
        os.pwrite(self.fd, data, offset)

    def die(self) -> None:
        os.close(self.fd)


def adopted(tier: RamTier, step: int, layer: int = 0, origin: str = "own:0", generation: int = 1) -> Copy:
    data = blob(step, generation)
    owner = Owner(data)
    copy = tier.adopt(origin, layer, step, generation, owner.path, digest_of(data))
    owner.die()
    return copy


def received(tier: RamTier, step: int, layer: int = 0, origin: str = "peer:b") -> Copy:
    data = blob(step)
    incoming = tier.new_buffer(layer, step, 1, len(data), origin)
    incoming.memory[:] = data
    return incoming.commit(digest_of(data))


def content(copy: Copy) -> bytes:
    with copy.file.hold() as fd:
        return os.pread(fd, copy.digest.size + 1, 0)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_copy_outlives_its_worker(tier: RamTier) -> None:
    copy = adopted(tier, 3, layer=2)
    assert content(copy) == blob(3)
    assert Path(copy.file.path).read_bytes() == blob(3)
    assert tier.find(2, 3, 1) == (copy,)
    tier.verify(copy)


def test_a_worker_that_is_gone_is_told_from_one_that_lies(tier: RamTier) -> None:
    with pytest.raises(FileNotFoundError):
        tier.adopt("own:0", 0, 1, 1, "/proc/self/fd/100000", digest_of(blob(1)))
    before = descriptors()
    owner = Owner(blob(1))
    with pytest.raises(CorruptError, match=r"layer 0, step 1.*has .* bytes, and 7 were told"):
        tier.adopt("own:0", 0, 1, 1, owner.path, digest_of(b"another"))
    with pytest.raises(CorruptError, match="is being overwritten"):
        tier.adopt("own:0", 0, 2, 1, owner.path, digest_of(blob(1)))
    owner.write(bytes(LENGTH.size))
    with pytest.raises(CorruptError, match="is being overwritten"):
        tier.adopt("own:0", 0, 1, 1, owner.path, digest_of(blob(1)))
    owner.die()
    assert descriptors() == before
    assert tier.versions() == {}


def test_no_more_open_files_is_told_with_the_remedy(tier: RamTier, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(blob(1))

    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        patched.setattr(os, "memfd_create", refuse)
        with pytest.raises(StorageError, match="ulimit -n"):
            tier.adopt("own:0", 0, 1, 1, owner.path, digest_of(blob(1)))
        with pytest.raises(StorageError, match="ulimit -n"):
            tier.new_buffer(0, 1, 1, 100, "fetched")
    owner.die()


def test_versions_tell_the_layers_that_are_whole(tier: RamTier) -> None:
    adopted(tier, 4, layer=0)
    adopted(tier, 3, layer=0)
    adopted(tier, 3, layer=1)
    received(tier, 3, layer=5)
    received(tier, 3, layer=0)
    adopted(tier, 3, layer=0, generation=2)
    assert tier.versions() == {(3, 1): {0, 1, 5}, (3, 2): {0}, (4, 1): {0}}
    assert list(tier.versions()) == [(3, 1), (3, 2), (4, 1)]


def test_an_own_copy_comes_before_one_received(tier: RamTier) -> None:
    fetched = received(tier, 3, origin="fetched")
    peers = received(tier, 3, origin="peer:a")
    own = [adopted(tier, 3, origin="own:1"), adopted(tier, 3, origin="own:0")]
    assert tier.find(0, 3, 1) == (own[1], own[0], peers, fetched)
    assert tier.find(0, 3, 2) == tier.find(1, 3, 1) == tier.find(0, 4, 1) == ()


def test_a_copy_that_is_being_overwritten_is_not_told_of_whether_or_not_its_worker_said_so(tier: RamTier) -> None:
    first, second, third = Owner(blob(1)), Owner(blob(2)), Owner(blob(3))
    for layer, owner, step in ((0, first, 1), (1, second, 2), (2, third, 3)):
        tier.adopt("own:0", layer, step, 1, owner.path, digest_of(blob(step)))
    tier.keep_only(lambda copy: copy.layer != 0)
    second.write(bytes(LENGTH.size))  # begun and not finished
    third.write(blob(4))  # finished, and not told
    assert tier.versions() == {}
    assert tier.find(1, 2, 1) == tier.find(2, 3, 1) == ()
    assert tier.bytes_held() == {"own": 0, "peer": 0, "fetched": 0}
    for owner in (first, second, third):
        owner.die()


def test_a_new_copy_takes_the_place_of_one_of_the_same_name(tier: RamTier) -> None:
    first = adopted(tier, 3)
    second = adopted(tier, 3)
    assert tier.find(0, 3, 1) == (second,)
    assert first.file.is_closed


def test_who_reads_a_copy_may_finish_after_it_was_dropped(tier: RamTier) -> None:
    before = descriptors()
    copy = adopted(tier, 3)
    with ExitStack() as readers:
        fd = readers.enter_context(copy.file.hold())
        readers.enter_context(copy.file.hold())
        tier.drop(copy)
        tier.drop(copy)
        assert tier.find(0, 3, 1) == ()
        assert os.pread(fd, 10_000, 0) == blob(3)
        with copy.file.hold():
            pass
    assert descriptors() == before
    with pytest.raises(FileNotFoundError, match="let go of"), copy.file.hold():
        pass
    with pytest.raises(FileNotFoundError):
        tier.verify(copy)


def test_what_is_received_in_any_order_is_a_copy_once_committed(tier: RamTier) -> None:
    before = descriptors()
    data = blob(7, numbers=10_000)
    incoming = tier.new_buffer(4, 7, 1, len(data), "peer:b")
    incoming.reserve()
    incoming.memory[5000:] = data[5000:]
    incoming.memory[:5000] = data[:5000]
    assert tier.versions() == {}
    copy = incoming.commit(digest_of(data))
    incoming.discard()
    assert (copy.layer, copy.version, copy.origin, copy.kind) == (4, (7, 1), "peer:b", "peer")
    assert content(copy) == data
    tier.verify(copy)
    assert len(descriptors() - before) == 1


def test_what_is_discarded_leaves_nothing(tier: RamTier) -> None:
    before = descriptors()
    incoming = tier.new_buffer(4, 7, 1, 100, "fetched")
    incoming.discard()
    incoming.discard()
    short = tier.new_buffer(4, 7, 1, 100, "fetched")
    with pytest.raises(CorruptError, match="layer 4, step 7, from fetched: 100 bytes were announced"):
        short.commit(digest_of(b"ten bytes."))
    assert descriptors() == before
    assert tier.versions() == {}


def test_an_origin_of_no_known_kind_is_refused(tier: RamTier) -> None:
    with pytest.raises(ValueError, match=r"origin 'mars' is none of own:<slot index>"):
        tier.new_buffer(0, 1, 1, 100, "mars")


def test_memory_is_counted_by_where_it_came_from_and_given_back(tier: RamTier) -> None:
    size = len(blob(1))
    for step in (1, 2):
        adopted(tier, step)
        received(tier, step)
    received(tier, 2, origin="fetched")
    assert tier.bytes_held() == {"own": 2 * size, "peer": 2 * size, "fetched": size}
    tier.keep_only(lambda copy: copy.version >= (2, 1))
    assert tier.versions() == {(2, 1): {0}}
    assert tier.bytes_held() == {"own": size, "peer": size, "fetched": size}
    tier.keep_only(lambda copy: copy.kind == "peer")
    assert tier.bytes_held() == {"own": 0, "peer": size, "fetched": 0}


def test_every_flipped_byte_is_found(tier: RamTier) -> None:
    data = blob(3, numbers=50)
    owner = Owner(data)
    copy = tier.adopt("own:0", 0, 3, 1, owner.path, digest_of(data))
    for at in range(len(data)):
        owner.write(bytes([data[at] ^ 0x10]), at)
        # A digit of its version: then it counts as overwritten.
        with pytest.raises((CorruptError, FileNotFoundError)):
            tier.verify(copy)
        owner.write(data[at : at + 1], at)
    tier.verify(copy)
    owner.die()


def test_a_corrupt_copy_is_named_with_the_place(tier: RamTier) -> None:
    copy = received(tier, 3, layer=6)
    Path(copy.file.path).write_bytes(blob(3)[:-1] + b"!")
    with pytest.raises(
        CorruptError, match=r"copy in RAM \(peer\) of layer 6, step 3, generation 1 is corrupt between bytes 0 and"
    ):
        tier.verify(copy)
    assert tier.find(6, 3, 1) == (copy,)


def test_the_place_of_a_flipped_byte_in_a_large_copy_is_told_to_its_chunk(tier: RamTier) -> None:
    size = 2 * CHUNK_BYTES + 5
    incoming = tier.new_buffer(0, 1, 1, size, "peer:b")
    digest = digest_of(incoming.memory)
    copy = incoming.commit(digest)
    tier.verify(copy)
    for at, place in ((CHUNK_BYTES + 9, f"{CHUNK_BYTES} and {2 * CHUNK_BYTES}"), (size - 1, f"and {size}")):
        with open(copy.file.path, "r+b") as file:
            file.seek(at)
            file.write(b"!")
        with pytest.raises(CorruptError, match=place):
            tier.verify(copy)
        with open(copy.file.path, "r+b") as file:
            file.seek(at)
            file.write(b"\0")


def test_a_copy_that_lost_its_end_is_corrupt(tier: RamTier) -> None:
    copy = received(tier, 3)
    os.truncate(copy.file.path, 60)
    with pytest.raises(CorruptError):
        tier.verify(copy)


def test_one_overwritten_while_it_is_verified_is_gone_and_not_corrupt(tier: RamTier) -> None:
    owner = Owner(blob(3))
    copy = tier.adopt("own:0", 0, 3, 1, owner.path, digest_of(blob(3)))
    owner.write(blob(4))
    with pytest.raises(FileNotFoundError, match="is being overwritten"):
        tier.verify(copy)
    owner.die()


def test_an_empty_blob_is_held_and_verified(tier: RamTier) -> None:
    data = lay_out([], {"step": "1", "generation": "1"})[1]
    owner = Owner(data)
    tier.verify(tier.adopt("own:0", 0, 1, 1, owner.path, digest_of(data)))
    owner.die()


def test_the_agents_side_starts_without_torch() -> None:
    code = "import sys, holdfast_checkpoint.ram; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    root = Path(__file__).resolve().parents[3] / "checkpoint"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, check=False)
    assert done.returncode == 0


def test_giving_back_much_memory_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: dict[int, str] = {}
    close = os.close

    def told(fd: int) -> None:
        size = os.fstat(fd).st_size
        close(fd)
        closed[size] = threading.current_thread().name

    monkeypatch.setattr("holdfast_checkpoint.held_file.os.close", told)
    me, tier = threading.current_thread().name, RamTier()
    for layer, size in enumerate((1000, 64 << 20)):
        incoming = tier.new_buffer(layer, 1, 1, size, "peer:b")
        incoming.memory[:8] = LENGTH.pack(size)
        incoming.commit(digest_of(incoming_of(size)))
    tier.close()
    wait_until(lambda: len(closed) >= 2, 20)
    assert closed[1000] == me
    assert closed[64 << 20] != me, "the kernel takes its time over it"


def incoming_of(size: int) -> bytes:
    return LENGTH.pack(size) + bytes(size - LENGTH.size)
