"""The remote tier on real S3 protocol servers: killed in the midst of an upload, frozen, empty after a restart."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from harness.storage.checkpoints import Checkpoint, in_memory, is_whole, made, store, store_blobs
from harness.storage.s3_server import Kind, S3Server, running_s3
from holdfast_checkpoint import storage_s3
from holdfast_checkpoint.errors import (
    CorruptError,
    NoCheckpointError,
    StorageBusyError,
    StorageDeniedError,
    UnfinishedError,
)
from holdfast_checkpoint.remote import Repository

PART = 5 << 20  # the least that S3 takes
LARGE = 4 * PART + 123
WITHIN_S = 60.0


@pytest.fixture(scope="module", params=[Kind.MOTO, Kind.RCLONE], ids=lambda kind: kind.value)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3"), request.param, "bucket") as server:
        yield server


@pytest.fixture(scope="module")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("moto"), Kind.MOTO, "bucket") as server:
        yield server


@pytest.fixture
def s3(shared: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return use(shared, monkeypatch)


@pytest.fixture
def moto(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    return use(moto_server, monkeypatch)


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage_s3, "PART_BYTES_MIN", PART)
    return server


def repository(folder: str, give_up_s: float = WITHIN_S) -> Repository:
    return Repository(f"s3://bucket/{folder}", pause_s=0.02, give_up_s=give_up_s)


def large(step: int = 40) -> Checkpoint:
    return made(step, (1000, LARGE), chunk_bytes=1 << 20)


def uploads_left() -> int:
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    return len(filesystem.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", ()))


def test_what_was_committed_reads_back_and_can_be_deleted(s3: S3Server) -> None:
    remote = repository("cycle/job")
    remote.prepare()
    assert remote.list() == ()
    for checkpoint in (large(40), made(50, (0, 7))):
        store(remote, checkpoint)
        store(remote, checkpoint)
        assert is_whole(remote, checkpoint)
        assert remote.verify(checkpoint.folder) == ()
    assert remote.newest() == (made(50).folder, made(50, (0, 7)).manifest)
    assert all(one.modified_s is not None and one.is_committed for one in remote.list())
    remote.delete(made(50).folder)
    assert [one.folder for one in remote.list()] == [large(40).folder]
    assert is_whole(remote, large(40))


def test_a_changed_object_is_found(s3: S3Server) -> None:
    remote, checkpoint = repository("changed"), large()
    store(remote, checkpoint)
    content = bytearray(checkpoint.contents[1])
    content[3 << 20] ^= 1
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.pipe_file(f"bucket/changed/{checkpoint.folder}/00001.safetensors", bytes(content))
    (error,) = remote.verify(checkpoint.folder)
    assert isinstance(error, CorruptError)
    assert f"between bytes {3 << 20} and {4 << 20}" in str(error)


def test_a_source_that_is_corrupt_leaves_no_object_and_no_upload(moto: S3Server) -> None:
    remote, checkpoint = repository("rotten"), large()
    content = bytearray(checkpoint.contents[1])
    content[-1] ^= 1
    with in_memory(bytes(content)) as source, pytest.raises(CorruptError, match="layer 1 to be stored as s3://bucket"):
        remote.put_blob(checkpoint.folder, 1, source, checkpoint.manifest.blobs[1].digest)
    assert remote.list() == ()
    assert uploads_left() == 0


def test_a_missing_bucket_and_wrong_keys_are_said_at_once(moto: S3Server) -> None:
    remote = Repository("s3://nowhere/x", give_up_s=WITHIN_S)
    for work in (remote.prepare, remote.list, remote.newest):
        with pytest.raises(StorageDeniedError, match="there is no such bucket; create it, or correct the URL"):
            work()


def test_no_credentials_are_said_at_once(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageDeniedError, match="there are no credentials; set them in the environment"):
        Repository("s3://bucket/x", give_up_s=WITHIN_S).prepare()


def test_only_one_of_two_manifests_is_ever_there(moto: S3Server) -> None:
    """Two leaders commit at once, each with its own content: the server's condition decides."""
    first, checkpoint = repository("twice"), made(40, (10,))
    store_blobs(first, checkpoint)
    path = f"{checkpoint.folder}/manifest.json"
    assert first._storage.put(path, b"a", create_only=True)
    assert not repository("twice")._storage.put(path, b"b", create_only=True)
    assert first._storage.read(path) == b"a"


def killed_in_upload(server: S3Server, remote: Repository, checkpoint: Checkpoint) -> Iterator[Future[None]]:
    """Yields once the server is dead, some parts of the large blob being there and others not."""
    with ThreadPoolExecutor(1) as threads:
        uploading = threads.submit(store_blobs, remote, checkpoint)
        deadline_s = time.monotonic() + WITHIN_S
        while not any("partNumber=" in request for request in server.requests()):
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        server.freeze()
        assert not any("POST" in request and "uploadId=" in request for request in server.requests()), "too late"
        server.kill()
        yield uploading


def test_an_upload_goes_through_though_the_server_is_killed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "_UPLOADS", 1)
    with running_s3(tmp_path, Kind.MOTO, "bucket") as server:
        use(server, monkeypatch)
        remote, checkpoint = repository("killed"), large()
        for uploading in killed_in_upload(server, remote, checkpoint):
            server.start()
            uploading.result(WITHIN_S)
        # moto forgot what it had acknowledged before: such a checkpoint must not be committed.
        with pytest.raises(UnfinishedError, match=r"00000\.safetensors is not stored whole"):
            remote.commit(checkpoint.folder, checkpoint.manifest)
        with pytest.raises(NoCheckpointError):
            remote.newest()
        store(remote, checkpoint)
        assert is_whole(remote, checkpoint)
        assert uploads_left() == 0


def test_a_server_that_stays_away_is_given_up_and_nothing_looks_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_s3, "_UPLOADS", 1)
    with running_s3(tmp_path, Kind.MOTO, "bucket") as server:
        use(server, monkeypatch)
        remote, checkpoint = repository("gone", give_up_s=0.3), large()
        for uploading in killed_in_upload(server, remote, checkpoint):
            with pytest.raises(StorageBusyError, match=r"tried for 0\.3 s"):
                uploading.result(WITHIN_S)


def test_what_was_acknowledged_survives_a_killed_server_that_keeps_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3(tmp_path, Kind.RCLONE, "bucket") as server:
        use(server, monkeypatch)
        remote, first, second = repository("disk"), large(40), large(50)
        store(remote, first)
        server.kill()
        done = threading.Event()

        def work() -> None:
            store(remote, second)
            done.set()

        with ThreadPoolExecutor(1) as threads:
            storing = threads.submit(work)
            assert not done.is_set()
            server.start()
            storing.result(WITHIN_S)
        assert is_whole(remote, first)
        assert is_whole(remote, second)
        assert remote.newest()[0] == second.folder


def test_a_server_that_answers_nothing_is_given_up(moto: S3Server) -> None:
    options = {"config_kwargs": {"read_timeout": 0.2}}
    hasty = Repository("s3://bucket/frozen", pause_s=0.02, give_up_s=0.3, storage_options=options)
    remote = repository("frozen")
    remote.prepare()
    moto.freeze()
    try:
        with pytest.raises(StorageBusyError, match="cannot list s3://bucket/frozen: no answer"):
            hasty.list()
    finally:
        moto.thaw()
    assert remote.list() == ()
