"""What a storage hands out is told apart from what it holds."""

from pathlib import Path

import pytest

from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, StorageBusyError
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.verified_reading import VerifiedReader

DATA = bytes(range(256)) * 4


class Early(Storage):
    """Its reads end halfway, so many times."""

    times = 0

    def read_into(self, path: str, start: int, buffer: memoryview) -> int | None:
        if self.times == 0:
            return super().read_into(path, start, buffer)
        self.times -= 1
        return super().read_into(path, start, buffer[: len(buffer) // 2])


@pytest.fixture
def storage(tmp_path: Path) -> Early:
    made = Early(str(tmp_path))
    made.put("blob", DATA)
    return made


def read(storage: Storage) -> bytes:
    buffer = bytearray(len(DATA))
    VerifiedReader(storage).fill_all("blob", digest_of(DATA), memoryview(buffer), "it")
    return bytes(buffer)


def test_a_read_that_ends_too_early_is_tried_again_and_then_the_storage_s_trouble(storage: Early) -> None:
    storage.times = 1
    assert read(storage) == DATA
    storage.times = 2
    with pytest.raises(StorageBusyError, match="has 1024 bytes, and what was read of it ended at 512"):
        read(storage)
    assert read(storage) == DATA


def test_a_blob_that_ends_too_early_is_corrupt(storage: Early) -> None:
    storage.put("blob", DATA[:512])
    with pytest.raises(CorruptError, match="ends at byte 512; 1024 bytes were written"):
        read(storage)
