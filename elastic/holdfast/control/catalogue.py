"""Checkpoints as the coordinator knows them: committed, on their way, and found unsound. Pure.

Rule: a checkpoint is committed once every layer of its version is told to be written, and only one that is newer than
all before, so that nothing that can be started from is ever replaced by less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from holdfast.control.recovery import Lineage, is_history
from holdfast.model.commands import CommitCheckpoint
from holdfast.model.ids import NodeId
from holdfast.model.records import CheckpointRef, CheckpointsRecord, UploadedBlob, UploadRecord, Version


@dataclass(slots=True)
class Catalogue:
    """As one leader knows it."""

    committed: tuple[CheckpointRef, ...] = ()  # oldest first
    unsound: set[str] = field(default_factory=set)
    _uploads: dict[Version, dict[NodeId, UploadRecord]] = field(default_factory=dict)
    _asked: Version | None = None  # the newest that was to be committed
    _is_listed: bool = False  # whether that was among the committed ones, as it may not be for ever
    _failed: set[Version] = field(default_factory=set)

    def changed(self, record: CheckpointsRecord | None) -> None:
        self.committed = record.committed if record is not None else ()
        self._is_listed |= any(ref.version == self._asked for ref in self.committed)
        self._uploads = {version: shares for version, shares in self._uploads.items() if self._is_news(version)}

    def uploaded(self, record: UploadRecord) -> None:
        if self._is_news(record.version):
            self._uploads.setdefault(record.version, {})[record.node] = record

    def _is_news(self, version: Version) -> bool:
        newest = self.newest
        return newest is None or version.age > newest.age

    @property
    def newest(self) -> Version | None:
        """Of those that are sound; a later generation may have gone back to an earlier step."""
        return max((ref.version for ref in self.sound), key=attrgetter("age"), default=None)

    @property
    def sound(self) -> tuple[CheckpointRef, ...]:
        """Those of which nobody found a blob missing or corrupt."""
        return tuple(ref for ref in self.committed if ref.folder not in self.unsound)

    def step_before(self, step: int) -> int:
        """Of the newest sound one up to `step`; 0: there is none."""
        return max((ref.version.step for ref in self.sound if ref.version.step <= step), default=0)

    def has(self, version: Version) -> bool:
        """Whether it can be started from `version`."""
        return any(ref.version == version for ref in self.sound)

    def due(self, layer_count: int) -> tuple[Version, Mapping[int, UploadedBlob], float | None] | None:
        """The newest version that is written whole and not committed, once: its blobs by layer, and its loss."""
        for version in sorted(self._uploads, key=attrgetter("age"), reverse=True):
            if self._asked is not None and version.age <= self._asked.age:
                return None
            shares = self._uploads[version]
            blobs = {blob.layer: blob for node in sorted(shares) for blob in shares[node].blobs}
            if len(blobs) == layer_count:
                self._asked, self._is_listed = version, False
                losses = (share.loss for share in shares.values() if share.loss is not None)
                return version, dict(sorted(blobs.items())), next(losses, None)
        return None

    def commit(
        self, version: Version, blobs: Mapping[int, UploadedBlob], loss: float | None, lineage: Lineage, in_use: str
    ) -> CommitCheckpoint:
        """What is `due`, as a command. `in_use`: folder of one that may be read just now."""
        useless = frozenset(
            ref.folder for ref in self.committed if ref.folder in self.unsound or not is_history(ref.version, lineage)
        )
        return CommitCheckpoint(version, tuple(blobs.values()), loss, self.committed, useless, in_use)

    @property
    def is_pending(self) -> bool:
        """Whether one is being committed, as far as is known with success."""
        return self.pending is not None

    @property
    def pending(self) -> Version | None:
        """That one."""
        asked = self._asked
        is_over = asked is None or self._is_listed or asked in self._failed or not self._is_news(asked)
        return None if is_over else asked

    def failed(self, version: Version) -> None:
        """It could not be committed: it may be asked for again."""
        self._failed.add(version)
        if self._asked == version:
            self._asked = None
