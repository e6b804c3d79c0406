"""Ranks that hear of votes only, or miss them, decide alike about snapshots, and RAM always has one version whole.

The ranks run in lockstep on the real policy; their buffers are dumb ones that know which version is whole in them.
"""

from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Any

import pytest

from holdfast.control.snapshotting import Tally
from holdfast.model.messages import Copied, FromWorker, SnapshotBegun, Snapshotted, Uploaded
from holdfast.model.records import Action, StartRecord, Version
from holdfast.spec import JobSpec
from holdfast.worker.snapshots import Snapshots
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.snapshot import Taken

RANKS, ROUNDS = 3, 120


class Buffers:
    """Two buffers; stands in for the copying alone."""

    def __init__(self, random: Random, weather: float) -> None:
        self._random, self._weather = random, weather
        self.whole: set[Version] = set()
        self.writing: Version | None = None
        self.overwrites: Callable[[Version], None] = lambda version: None

    def begin(self, step: int, generation: int, layers: Mapping[int, Any], keep: tuple[int, int] | None) -> None:
        assert self.writing is None
        spared = {version for version in self.whole if (version.step, version.generation) == keep}
        victims = sorted(self.whole - spared, key=lambda version: (version.generation, version.step))
        if len(self.whole) == 2:
            self.overwrites(victims[0])
            self.whole.discard(victims[0])
        self.writing = Version(step, generation)

    def wait(self, beat: Callable[[], None]) -> Taken | None:
        version, self.writing = self.writing, None
        if version is None:
            return None
        if self._random.random() < self._weather / 4:
            raise StorageError("no memory")
        self.whole.add(version)
        return Taken(step=version.step, generation=version.generation, blobs=(), copy_s=0.0, cpu_s=0.0)

    def forget(self, layers: Collection[int]) -> None:
        pass


class Rank:
    def __init__(self, random: Random, weather: float, settings: Mapping[str, Any]) -> None:
        spec = JobSpec.model_validate({"name": "toy", "program": {"entry": "a:b"}, "steps": 9, **settings})
        self.random, self.weather, self.uploading = random, weather, set[Version]()
        self.buffers = Buffers(random, weather)
        self.buffers.overwrites = self.overwritten
        snapshotter: Any = self.buffers
        self.policy = Snapshots(spec, self.hear, counts_cpu=False, snapshotter=snapshotter)
        self.late: list[Copied | Uploaded] = []
        self.start: StartRecord | None = None
        self.kept: Version | None = None
        self.told: Version | None = None
        self.copied: set[Version] = set()  # with this generation's peers

    def enter(self, start: StartRecord) -> None:
        """What was on its way may still come; of what the agent has, it tells anew."""
        self.start, self.kept, self.copied = start, start.kept, set()
        self.policy.enter(start)
        if self.told in self.buffers.whole:
            self.late.append(Copied(generation=start.generation, version=self.told, layers=()))

    def hear(self, message: FromWorker) -> None:
        assert self.start is not None
        match message:
            case Snapshotted(version=version, for_checkpoint=for_checkpoint):
                self.told = version
                self.late.append(Copied(generation=self.start.generation, version=version, layers=()))
                if for_checkpoint:
                    self.uploading.add(version)
                    self.late.append(Uploaded(version=version))
            case SnapshotBegun(kept=kept):
                known = kept == self.kept or kept in self.copied or self.kept is None
                assert known, "it counts on copies that nobody told of"
                self.kept = kept
            case _:
                raise AssertionError(message)

    def overwritten(self, version: Version) -> None:
        assert version not in self.uploading, f"{version} is overwritten while it is uploaded"

    def deliver(self) -> None:
        """Some of what peers and the storage have to say."""
        for message in list(self.late):
            if self.random.random() >= self.weather:
                self.late.remove(message)
                if isinstance(message, Uploaded):
                    self.uploading.discard(message.version)
                elif self.start is not None and message.generation == self.start.generation:
                    self.copied.add(message.version)
                self.policy.heard(message)


def whole_everywhere(ranks: Collection[Rank]) -> set[Version]:
    return set.intersection(*(rank.buffers.whole for rank in ranks))


def start_of(generation: int, version: Version, ranks: Collection[Rank], checkpoint_step: int) -> StartRecord:
    kept = max((v for v in whole_everywhere(ranks) if v <= version), default=None)
    return StartRecord(
        generation=generation,
        action=Action.TRAIN,
        version=version,
        plan=None,
        transfers=(),
        roll_forward=None,
        redone_steps=0,
        initialise=False,
        kept=kept,
        checkpoint_step=checkpoint_step,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"snapshots": {"every": 1}},
        {"snapshots": {"every": 3}},
        {"snapshots": {"every": None}, "checkpoints": {"url": "x", "every": 4}},
        {"snapshots": {"every": 0}, "checkpoints": {"url": "x", "every": 2}},
    ],
    ids=["every step", "every third", "automatic, with checkpoints", "checkpoints alone"],
)
@pytest.mark.parametrize("weather", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("seed", range(8))
def test_ranks_agree_and_one_version_is_always_whole_everywhere(
    settings: Mapping[str, Any], weather: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.worker.snapshots._COPIES_S", 0.0)  # copies that are late stay late
    random = Random(f"{seed}/{weather}/{settings}")
    ranks = [Rank(random, weather, settings) for _ in range(RANKS)]
    version, generation, checkpoint_step, taken, has_been_whole = Version(0, 0), 0, 0, 0, False

    def vote(voted: Version, hearing: Collection[Rank]) -> None:
        """Those in `hearing` learn what came of it."""
        nonlocal taken
        for rank in ranks:
            rank.deliver()
            rank.policy.settle(lambda: None)
        tally = Tally.of([rank.policy.standing() for rank in ranks])
        due = [rank.policy.is_due(voted.step, tally) for rank in hearing]
        assert len(set(due)) <= 1, "all ranks decide alike"
        for rank in hearing:
            if due[0]:
                rank.policy.begin(voted, {}, None, tally)
        taken += bool(due and due[0])

    for _ in range(ROUNDS):
        if generation == 0 or random.random() < 0.15:
            # The vote on a step was interrupted: some know what came of it, and go on from there.
            if generation:
                version = Version(version.step + 1, generation)
                vote(version, ranks[: random.randrange(RANKS + 1)])
            generation += 1
            for rank in ranks:
                rank.policy.settle(lambda: None)
            start = start_of(generation, version, ranks, checkpoint_step)
            for rank in ranks:
                rank.enter(start)
            vote(version, ranks)
        else:
            version = Version(version.step + 1, generation)
            vote(version, ranks)
        has_been_whole = has_been_whole or bool(whole_everywhere(ranks))
        assert not has_been_whole or whole_everywhere(ranks), "a loss now would find no version whole"
    assert taken > (ROUNDS / 10 if weather < 0.5 else 0), "snapshots are taken at all"
