"""Seeded schedules of storage faults: what was committed reads back bit for bit, and nothing torn is ever taken."""

import random
from collections import Counter
from dataclasses import dataclass, field

import fsspec
import pytest

from harness.storage.checkpoints import Checkpoint, is_whole, made, read_blob, store_blobs
from harness.storage.faulty import Fault, State, register
from holdfast_checkpoint.errors import CheckpointError, NoCheckpointError, StorageError
from holdfast_checkpoint.remote import Repository
from holdfast_checkpoint.retention import Retention, expendable

SEEDS = 150
SLICES = 10
STEPS = 6


@dataclass(slots=True)
class Account:
    """What callers were told. Only a call that returned promises anything."""

    made: dict[str, Checkpoint] = field(default_factory=dict)
    committed: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)
    told: Counter[str] = field(default_factory=Counter)


class Schedule:
    """One run on a storage that fails as `seed` says; some tries again are allowed, not always enough."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.place = f"/storage-faults/{seed}"
        self.state = State()
        rate = self.chance.choice([0.05, 0.2, 0.5])
        self.options = {"target": "memory", "seed": seed, "rate": rate, "slow_s": 0.0, "state": self.state}
        self.account = Account()
        self.faulty = self._repository()
        self.sound = Repository(f"memory://{self.place}", pause_s=0.0)

    def _repository(self) -> Repository:
        """Of one process."""
        give_up_s = self.chance.choice([0.0, 0.002, 1.0])
        return Repository(f"faulty://{self.place}", pause_s=0.0, give_up_s=give_up_s, storage_options=self.options)

    def play(self) -> None:
        for step in range(1, STEPS + 1):
            checkpoint = made(step, (0, 50, 5000), chunk_bytes=512)
            self.account.made[checkpoint.folder] = checkpoint
            self._store(checkpoint)
            self._read_newest()
            if self.chance.random() < 0.4:
                self._prune()
            if self.chance.random() < 0.2:
                self.faulty = self._repository()  # another process goes on

    def _store(self, checkpoint: Checkpoint) -> None:
        try:
            for _ in range(self.chance.choice([1, 1, 2])):
                store_blobs(self.faulty, checkpoint)
            if self.chance.random() < 0.15:
                return  # killed before the manifest
            self.faulty.commit(checkpoint.folder, checkpoint.manifest)
            self.account.committed.add(checkpoint.folder)
        except CheckpointError as error:
            self.account.told[f"store {type(error).__name__}"] += 1

    def _read_newest(self) -> None:
        try:
            folder, manifest = self.faulty.newest()
            contents = tuple(read_blob(self.faulty, folder, entry) for entry in manifest.blobs)
        except CheckpointError as error:
            self.account.told[f"read {type(error).__name__}"] += 1
            return
        self.account.told["read"] += 1
        assert manifest == self.account.made[folder].manifest
        assert contents == self.account.made[folder].contents

    def _prune(self) -> None:
        try:
            for folder in expendable(self.faulty.list(), Retention(keep_last=2)):
                self.account.deleting.add(folder)
                self.faulty.delete(folder)
        except StorageError as error:
            self.account.told[f"prune {type(error).__name__}"] += 1

    def check(self) -> None:
        """Once the storage is sound again, from what really lies there."""
        kept = self.account.committed - self.account.deleting
        for folder in sorted(kept):
            assert is_whole(self.sound, self.account.made[folder]), folder
            assert self.sound.verify(folder) == (), folder
        for found in self.sound.list():
            self._check_not_torn(found.folder)
        if kept:
            newest, _ = self.sound.newest()
            assert newest >= max(kept)
        # One that was committed though its caller was told otherwise is whole all the same; and then there is none.
        for _ in self.sound.list():
            try:
                folder, _ = self.sound.newest()
            except NoCheckpointError:
                break
            assert folder in self.account.deleting or is_whole(self.sound, self.account.made[folder])
            self.sound.delete(folder)
        with pytest.raises(NoCheckpointError):
            self.sound.newest()

    def _check_not_torn(self, folder: str) -> None:
        try:
            self.sound.read_manifest(folder)
        except CheckpointError:
            return
        if folder not in self.account.deleting:
            assert is_whole(self.sound, self.account.made[folder])

    def close(self) -> None:
        filesystem = fsspec.filesystem("memory")
        if filesystem.exists(self.place):
            filesystem.rm(self.place, recursive=True)


def play(seed: int) -> Schedule:
    schedule = Schedule(seed)
    try:
        schedule.play()
        schedule.check()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        schedule.close()
    return schedule


@pytest.mark.parametrize("part", range(SLICES))
def test_what_was_committed_is_read_back_and_nothing_torn_is_taken(part: int) -> None:
    register()
    injected: Counter[Fault] = Counter()
    told: Counter[str] = Counter()
    for seed in range(part, SEEDS, SLICES):
        schedule = play(seed)
        injected += schedule.state.injected
        told += schedule.account.told
    # Or nothing was tried at all.
    assert set(injected) == set(Fault)
    assert told["read"] > 0
    assert told["store StorageBusyError"] > 0
