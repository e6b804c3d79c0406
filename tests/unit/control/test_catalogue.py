"""Which checkpoints there are, as one leader knows it."""

from holdfast.control.catalogue import Catalogue
from holdfast.model.ids import NodeId
from holdfast.model.records import CheckpointRef, CheckpointsRecord, UploadedBlob, UploadRecord, Version

OLD, NEW = Version(113, 3), Version(106, 5)


def written(version: Version) -> UploadRecord:
    blob = UploadedBlob(layer=0, path="0", size=0, chunk_bytes=1, chunks=())
    return UploadRecord(version=version, node=NodeId("a"), blobs=(blob,), loss=0.5)


def listed(*versions: Version) -> CheckpointsRecord:
    refs = (CheckpointRef(version=version, folder=str(version.step)) for version in versions)
    return CheckpointsRecord(committed=tuple(refs))


def test_one_that_was_listed_is_committed_even_if_it_is_deleted_later() -> None:
    """A job that is over waits for what is being committed."""
    catalogue = Catalogue()
    catalogue.uploaded(written(OLD))
    assert catalogue.due(1) is not None
    assert catalogue.pending == OLD
    catalogue.changed(listed(OLD))
    assert catalogue.pending is None
    catalogue.changed(listed())
    assert catalogue.pending is None


def test_who_commits_hears_which_of_those_before_are_of_no_use() -> None:
    catalogue = Catalogue()
    fork, corrupt, good = Version(104, 3), Version(90, 3), Version(80, 3)
    catalogue.changed(listed(good, corrupt, fork))
    catalogue.unsound.add("90")
    catalogue.uploaded(written(NEW))
    due = catalogue.due(1)
    assert due is not None
    command = catalogue.commit(*due, lineage=((5, 100),), in_use="80")
    assert command.useless == {"90", "104"}
    assert (command.version, command.in_use) == (NEW, "80")
