"""What a storage hands out is told apart from what it holds."""

from pathlib import Path

import pytest

from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.verified_reading import VerifiedReader

DATA = bytes(range(256)) * 4


class Unsteady(Storage):
    """Its reads end halfway, or come with one bit changed, so many times."""

    short_reads = 0
    flips = 0

    def read_into(self, path: str, start: int, buffer: memoryview) -> int | None:
        if self.flips:
            self.flips -= 1
            count = super().read_into(path, start, buffer)
            buffer[7] ^= 1
            return count
        if self.short_reads == 0:
            return super().read_into(path, start, buffer)
        self.short_reads -= 1
        return super().read_into(path, start, buffer[: len(buffer) // 2])


@pytest.fixture
def storage(tmp_path: Path) -> Unsteady:
    made = Unsteady(str(tmp_path))
    made.put("blob", DATA)
    return made


def read(storage: Storage) -> bytes:
    buffer = bytearray(len(DATA))
    VerifiedReader(storage).fill_all("blob", digest_of(DATA), memoryview(buffer), "it")
    return bytes(buffer)


def test_a_read_that_ends_too_early_is_tried_again_and_then_the_storage_s_trouble(storage: Unsteady) -> None:
    storage.short_reads = 3
    assert read(storage) == DATA
    storage.short_reads = 4
    with pytest.raises(StorageBusyError, match="has 1024 bytes, and what was read of it ended at 512"):
        read(storage)
    assert read(storage) == DATA


def test_what_a_bad_way_spoils_three_times_is_read_at_the_fourth_and_what_it_always_spoils_is_corrupt(
    storage: Unsteady,
) -> None:
    storage.flips = 3
    assert read(storage) == DATA
    storage.flips = 4
    with pytest.raises(CorruptError, match="corrupt between bytes"):
        read(storage)
    assert read(storage) == DATA


def test_a_blob_that_ends_too_early_is_corrupt(storage: Unsteady) -> None:
    storage.put("blob", DATA[:512])
    with pytest.raises(CorruptError, match="ends at byte 512; 1024 bytes were written"):
        read(storage)
