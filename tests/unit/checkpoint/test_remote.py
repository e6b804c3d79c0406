"""The remote tier, in memory and in a folder: what was committed comes back, and nothing else is taken for it."""

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save

from harness.storage.checkpoints import (
    Checkpoint,
    digest_in_chunks,
    in_memory,
    is_whole,
    made,
    read_blob,
    store,
    store_blobs,
)
from harness.storage.faulty import State, register
from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import (
    CheckpointError,
    CorruptError,
    FormatError,
    NoCheckpointError,
    StorageBusyError,
    StorageError,
    UnfinishedError,
)
from holdfast_checkpoint.header import lay_out
from holdfast_checkpoint.manifest import BlobEntry, to_json
from holdfast_checkpoint.remote import Repository


@pytest.fixture(params=["memory", "file"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    root = tmp_path / "checkpoints" / "job"
    return Repository(f"{request.param}://{root}", pause_s=0.0, give_up_s=5.0)


def raw(repository: Repository, path: str, data: bytes | None = None) -> bytes:
    """Behind its back: what lies there, after `data` was put there."""
    filesystem, root = fsspec.url_to_fs(repository.url)
    if data is not None:
        filesystem.makedirs(f"{root}/{path}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{root}/{path}", data)
    content: bytes = filesystem.cat_file(f"{root}/{path}")
    return content


def flip(repository: Repository, path: str, at: int) -> None:
    data = bytearray(raw(repository, path))
    data[at] ^= 4
    raw(repository, path, bytes(data))


def remove(repository: Repository, path: str) -> None:
    filesystem, root = fsspec.url_to_fs(repository.url)
    filesystem.rm_file(f"{root}/{path}")


@pytest.fixture
def stored(repository: Repository) -> Checkpoint:
    checkpoint = made(40)
    store(repository, checkpoint)
    return checkpoint


def test_what_was_committed_reads_back_bit_for_bit(repository: Repository) -> None:
    repository.prepare()
    assert repository.list() == ()
    for step in (10, 20):
        store(repository, made(step))
    assert [(one.step, one.is_committed, one.run, one.generation) for one in repository.list()] == [
        (10, True, "3f2a9c1b", 1),
        (20, True, "3f2a9c1b", 1),
    ]
    assert all(one.modified_s is not None for one in repository.list())
    assert is_whole(repository, made(10))
    assert is_whole(repository, made(20))
    assert repository.newest() == (made(20).folder, made(20).manifest)
    assert repository.newest(step=10) == (made(10).folder, made(10).manifest)


def test_storing_and_committing_again_changes_nothing(repository: Repository, stored: Checkpoint) -> None:
    store(repository, stored)
    repository.commit(stored.folder, replace(stored.manifest, created="2026-01-01T00:00:00Z"))
    assert is_whole(repository, stored)


def test_another_manifest_is_refused_and_the_first_one_stays(repository: Repository, stored: Checkpoint) -> None:
    with pytest.raises(StorageError, match=r"manifest\.json is there already, and is another one"):
        repository.commit(stored.folder, replace(stored.manifest, samples=1))
    assert is_whole(repository, stored)


def test_a_manifest_goes_only_where_it_belongs(repository: Repository, stored: Checkpoint) -> None:
    with pytest.raises(ValueError, match="does not belong in"):
        repository.commit(stored.folder, replace(stored.manifest, step=41))


def test_nothing_is_committed_of_which_a_blob_is_missing_or_short(repository: Repository) -> None:
    checkpoint = made(40)
    with pytest.raises(UnfinishedError, match=r"00001\.safetensors is not stored whole|00000\.safetensors"):
        repository.commit(checkpoint.folder, checkpoint.manifest)
    store_blobs(repository, checkpoint)
    path = f"{checkpoint.folder}/00002.safetensors"
    raw(repository, path, raw(repository, path)[:-1])
    with pytest.raises(UnfinishedError, match=r"00002\.safetensors is not stored whole"):
        repository.commit(checkpoint.folder, checkpoint.manifest)
    with pytest.raises(NoCheckpointError):
        repository.newest()


def test_a_source_that_is_not_what_its_digest_says_is_not_stored(repository: Repository) -> None:
    folder = made(40).folder
    digest = digest_of(b"as it was copied")
    with (
        in_memory(b"as it was copieD") as source,
        pytest.raises(CorruptError, match=r"layer 7 to be stored as .*00007"),
    ):
        repository.put_blob(folder, 7, source, digest)
    with in_memory(b"shorter") as source, pytest.raises(CorruptError, match="has 7 bytes, and its digest is of 16"):
        repository.put_blob(folder, 7, source, digest)
    assert repository.list() == ()


def test_a_stored_blob_that_rotted_is_mended_by_storing_it_again(repository: Repository, stored: Checkpoint) -> None:
    flip(repository, f"{stored.folder}/00003.safetensors", 50_000)
    store_blobs(repository, stored)
    assert is_whole(repository, stored)


def test_a_storage_that_loses_half_and_says_nothing_is_found_out(tmp_path: Path) -> None:
    register()
    options = {"target": "memory", "seed": 1, "rate": 1.0, "kinds": "short", "state": State()}
    lossy = Repository(f"faulty://{tmp_path}", pause_s=0.0, give_up_s=0.02, storage_options=options)
    sound, checkpoint = Repository(f"memory://{tmp_path}", pause_s=0.0), made(40)
    with pytest.raises(StorageError, match="reads back as something else than was written"):
        lossy.prepare()
    with pytest.raises(StorageBusyError, match=r"has 500 of 1000 bytes after it was written"):
        store_blobs(lossy, made(50, (1000,)))
    store_blobs(sound, checkpoint)
    with pytest.raises(StorageBusyError, match=r"manifest\.json does not read back as it was written"):
        lossy.commit(checkpoint.folder, checkpoint.manifest)
    with pytest.raises(NoCheckpointError):
        sound.newest()


def test_blobs_without_a_manifest_are_no_checkpoint(repository: Repository, stored: Checkpoint) -> None:
    unfinished = made(50)
    store_blobs(repository, unfinished)
    assert [one.is_committed for one in repository.list()] == [True, False]
    with pytest.raises(UnfinishedError, match="has no manifest: it was never committed"):
        repository.read_manifest(unfinished.folder)
    passed_over: list[tuple[str, type[CheckpointError]]] = []
    found, _ = repository.newest(on_bad=lambda folder, error: passed_over.append((folder, type(error))))
    assert found == stored.folder
    assert passed_over == [(unfinished.folder, UnfinishedError)]


def test_what_is_not_there_is_said_to_be_so(repository: Repository, stored: Checkpoint) -> None:
    with pytest.raises(NoCheckpointError, match=r"no checkpoint of step 7 at .*job"):
        repository.newest(step=7)
    with pytest.raises(NoCheckpointError, match=r"no checkpoint .*0000000007-x-1"):
        repository.read_manifest("0000000007-x-1")


def test_a_corrupt_manifest_is_passed_over_and_named(repository: Repository, stored: Checkpoint) -> None:
    newer = made(50)
    store(repository, newer)
    flip(repository, f"{newer.folder}/manifest.json", 200)
    passed_over: list[str] = []
    found, _ = repository.newest(on_bad=lambda folder, error: passed_over.append(f"{folder} {error}"))
    assert found == stored.folder
    assert len(passed_over) == 1
    assert "manifest.json is corrupt" in passed_over[0]


def test_a_manifest_that_was_moved_is_not_taken(repository: Repository, stored: Checkpoint) -> None:
    raw(repository, f"{made(90).folder}/manifest.json", to_json(stored.manifest))
    with pytest.raises(CorruptError, match="is of step 40"):
        repository.read_manifest(made(90).folder)


@pytest.mark.parametrize("at", [0, 4095, 4096, 69_999])
def test_a_flipped_byte_of_a_blob_is_found_and_its_place_named(
    repository: Repository, stored: Checkpoint, at: int
) -> None:
    path = f"{stored.folder}/00003.safetensors"
    flip(repository, path, at)
    start, stop = at // 4096 * 4096, min(at // 4096 * 4096 + 4096, 70_000)
    place = rf"layer 3 \(layer-3\) in .*{path} is corrupt between bytes {start} and {stop}"
    entry = stored.manifest.blobs[3]
    with pytest.raises(CorruptError, match=place):
        read_blob(repository, stored.folder, entry)
    with pytest.raises(CorruptError, match=place):
        repository.read_range(stored.folder, entry, at, at + 1)
    (error,) = repository.verify(stored.folder)
    assert isinstance(error, CorruptError)
    assert f"between bytes {start} and {stop}" in str(error)


def test_verify_names_all_that_is_wrong_and_counts_every_byte(repository: Repository, stored: Checkpoint) -> None:
    sizes: list[int] = []
    assert repository.verify(stored.folder, sizes.append) == ()
    assert sum(sizes) == stored.manifest.size
    flip(repository, f"{stored.folder}/00002.safetensors", 9)
    remove(repository, f"{stored.folder}/00001.safetensors")
    raw(repository, f"{stored.folder}/00003.safetensors", stored.contents[3] + b"x")
    errors = [str(error) for error in repository.verify(stored.folder)]
    assert len(errors) == 3
    assert "00001.safetensors is not there any more" in errors[0]
    assert "00002.safetensors is corrupt between bytes 0 and 1000" in errors[1]
    assert "00003.safetensors ends at byte 70001; 70000 bytes were written" in errors[2]
    remove(repository, f"{stored.folder}/manifest.json")
    (error,) = repository.verify(stored.folder)
    assert isinstance(error, UnfinishedError)


def test_a_truncated_or_missing_blob_is_corrupt_for_its_reader(repository: Repository, stored: Checkpoint) -> None:
    raw(repository, f"{stored.folder}/00003.safetensors", stored.contents[3][:60_000])
    with pytest.raises(CorruptError, match=r"layer 3 .* ends at byte 60000; 70000 bytes were written"):
        read_blob(repository, stored.folder, stored.manifest.blobs[3])
    remove(repository, f"{stored.folder}/00002.safetensors")
    with pytest.raises(CorruptError, match=r"layer 2 .* is not there any more"):
        read_blob(repository, stored.folder, stored.manifest.blobs[2])


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (4095, 4097), (5000, 69_999), (0, 70_000), (70_000, 70_000)]
)
def test_a_range_is_exactly_what_was_asked_for(
    repository: Repository, stored: Checkpoint, start: int, stop: int
) -> None:
    entry = stored.manifest.blobs[3]
    assert repository.read_range(stored.folder, entry, start, stop) == stored.contents[3][start:stop]


def test_ranges_and_buffers_that_do_not_fit_are_refused(repository: Repository, stored: Checkpoint) -> None:
    entry = stored.manifest.blobs[3]
    with pytest.raises(ValueError, match="layer 3 has 70000 bytes; there is no range from 5 to 70001"):
        repository.read_range(stored.folder, entry, 5, 70_001)
    with pytest.raises(ValueError, match="buffer has 5 bytes; layer 3 has 70000"):
        repository.read_blob_into(stored.folder, entry, memoryview(bytearray(5)))


def test_large_blobs_are_read_in_many_ranges(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_checkpoint.verified_reading._RANGE_BYTES", 8192)
    checkpoint = made(40, (300_001,))
    store(repository, checkpoint)
    assert is_whole(repository, checkpoint)
    assert repository.verify(checkpoint.folder) == ()


def test_the_header_is_read_without_the_data(repository: Repository) -> None:
    tensors = [("w", "F32", (100, 10)), *[(f"b{n}", "F32", (1,)) for n in range(60)]]
    header, start = lay_out(tensors, {})
    content = start + bytes(header.size - header.data_start)
    checkpoint = made(40, (len(content),), chunk_bytes=512)
    with in_memory(content) as source:
        digest = digest_in_chunks(content, 512)
        repository.put_blob(checkpoint.folder, 0, source, digest)
    entry = replace(checkpoint.manifest.blobs[0], digest=digest)
    assert header.data_start > 512  # so that it takes more than the first chunk
    assert repository.read_header(checkpoint.folder, entry) == header


def test_a_manifest_cannot_lead_out_of_its_folder(repository: Repository, stored: Checkpoint) -> None:
    for path in ("../x", "/etc/passwd", "", "a/../../b"):
        entry = replace(stored.manifest.blobs[1], path=path)
        with pytest.raises(FormatError, match="leads out of the checkpoint"):
            read_blob(repository, stored.folder, entry)
    for folder in ("..", "", "../0000000040-a-1"):
        with pytest.raises(ValueError, match="does not name a checkpoint"):
            repository.delete(folder)


def test_what_is_deleted_is_gone_and_its_manifest_went_first(
    repository: Repository, stored: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(repository, made(50))
    monkeypatch.setattr(repository._storage, "remove_folder", lambda folder: None)
    repository.delete(stored.folder)
    assert [one.is_committed for one in repository.list()] == [False, True]
    monkeypatch.undo()
    repository.delete(stored.folder)
    repository.delete(stored.folder)
    assert [one.folder for one in repository.list()] == [made(50).folder]
    assert is_whole(repository, made(50))


def test_of_several_runs_at_one_step_the_latest_is_the_newest(repository: Repository) -> None:
    early = made(40, run="b", generation=9, created="2025-01-01T00:00:00Z")
    late = made(40, run="a", generation=1, created="2025-01-02T00:00:00Z")
    # The clock of whoever led the second generation was behind.
    later = made(40, run="a", generation=2, created="2025-01-01T23:00:00Z")
    for checkpoint in (early, late, later):
        store(repository, checkpoint)
    assert repository.newest()[0] == later.folder


def test_other_things_in_the_same_place_are_left_alone(repository: Repository, stored: Checkpoint) -> None:
    raw(repository, "notes.txt", b"mine")
    raw(repository, "other/manifest.json", b"{}")
    assert [one.folder for one in repository.list()] == [stored.folder]
    repository.delete(stored.folder)
    assert raw(repository, "notes.txt") == b"mine"


def test_the_documented_lines_read_a_checkpoint_without_holdfast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(__file__).parents[3].joinpath("docs", "checkpoints.md").read_text()
    section = text.partition("## Reading one without Holdfast")[2].partition("This verifies no checksum")[0]
    layers = {"embed": {"w": torch.arange(6.0).reshape(2, 3)}, "head": {"b": torch.ones(4), "step": torch.tensor(7)}}
    remote, entries = Repository(f"{tmp_path}"), []
    folder = "0000000040-3f2a9c1b-3"
    for layer, (name, tensors) in enumerate(layers.items()):
        content = save(tensors)
        digest = digest_of(content)
        with in_memory(content) as source:
            path = remote.put_blob(folder, layer, source, digest)
        entries.append(BlobEntry(layer=layer, name=name, path=path, digest=digest))
    remote.commit(folder, replace(made(40, (), generation=3).manifest, blobs=tuple(entries)))

    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(section), names)
    assert names["state"].keys() == layers.keys()
    for name, tensors in layers.items():
        assert all(torch.equal(names["state"][name][key], tensor) for key, tensor in tensors.items())
