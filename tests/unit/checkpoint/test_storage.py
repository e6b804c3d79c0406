"""A storage's own errors become ours, are tried again while that helps, and files are whole or not there."""

import errno
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.storage.checkpoints import digest_in_chunks, in_memory
from harness.storage.faulty import Fault, ServiceError, State, faulty_environment, register
from holdfast_checkpoint.errors import CorruptError, StorageBusyError, StorageDeniedError, StorageError
from holdfast_checkpoint.storage import Storage
from holdfast_checkpoint.storage_backend import Source
from holdfast_checkpoint.storage_errors import translated
from holdfast_checkpoint.storage_retry import Patience

NO_ENTRY = FileNotFoundError(errno.ENOENT, "No such file", "x")


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/root", pause_s=0.0, give_up_s=5.0)


def faulty(seed: int = 0, give_up_s: float = 5.0, **options: object) -> tuple[Storage, State]:
    register()
    state = State()
    options |= {"target": "memory", "seed": seed, "state": state, "slow_s": 0.0}
    return Storage("faulty:///storage-test", pause_s=0.0, give_up_s=give_up_s, options=options), state


# ---- URLs


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is empty"),
        (
            "s3://AKIA123:hunter2@bucket/x",
            "for s3://bucket/x holds credentials; leave them out, and set AWS_ACCESS_KEY_ID",
        ),
        ("s3://AKIA123@bucket/x", "holds credentials"),
        ("sftp://me:hunter2@host/x", "holds credentials"),
        ("s3://bucket/x?key=AKIA123&secret=hunter2", "for s3://bucket/x has a '\\?' or '#'; leave out all"),
        ("gs://bucket/x?token=hunter2", "set GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3:///x", "names no bucket; use s3://bucket/folder"),
        ("simplecache::s3://bucket/x", "chains file systems"),
        ("nosuch://bucket/x", "cannot open nosuch://bucket/x"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_its_secrets_are_not_repeated(url: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason) as caught:
        Storage(url)
    assert "hunter2" not in str(caught.value)
    assert "AKIA123" not in str(caught.value)


@pytest.mark.parametrize("option", ["key", "secret", "token", "password"])
def test_credentials_among_the_options_are_refused(option: str) -> None:
    with pytest.raises(StorageError, match=f"option '{option}' for memory://x is a credential") as caught:
        Storage("memory://x", options={option: "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_user_name_alone_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(StorageError, match=r"sftp://me@host/x needs a package that is not installed"):
        Storage("sftp://me@host/x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match="s3://bucket/x needs a package that is not installed: pip install 's3fs'"):
        Storage("s3://bucket/x")


def test_a_relative_path_is_shown_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("some/folder")
    assert storage.url == str(tmp_path / "some" / "folder")
    assert storage.put("a", b"x")
    assert (tmp_path / "some" / "folder" / "a").read_bytes() == b"x"


# ---- what errors mean


class NoCredentialsError(Exception):
    """As botocore's, which is known by its name."""


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (ServiceError("AccessDenied"), StorageDeniedError, "the credentials do not allow it"),
        (ServiceError("NoSuchBucket"), StorageDeniedError, "there is no such bucket; create it, or correct the URL"),
        (ServiceError("InvalidAccessKeyId"), StorageDeniedError, "access key is not known"),
        (ServiceError("SignatureDoesNotMatch"), StorageDeniedError, "secret key is wrong"),
        (ServiceError("ExpiredToken"), StorageDeniedError, "the credentials have expired; renew them"),
        (ServiceError("SlowDown"), StorageBusyError, "asks for another try"),
        (ServiceError("503"), StorageBusyError, "asks for another try"),
        (ServiceError("599"), StorageBusyError, "asks for another try"),
        (ServiceError("BadDigest"), StorageBusyError, "asks for another try"),
        (ServiceError("NoSuchUpload"), StorageBusyError, "has forgotten the upload"),
        (NoCredentialsError("Unable to locate credentials"), StorageDeniedError, "there are no credentials; set them"),
        (PermissionError(errno.EACCES, "Permission denied"), StorageDeniedError, "no permission"),
        (OSError(errno.EROFS, "Read-only file system"), StorageDeniedError, "no permission"),
        (OSError(errno.ENOSPC, "No space left"), StorageError, "the storage is full; make room"),
        (OSError(errno.EIO, "Input/output error"), StorageBusyError, "failed for now"),
        (ConnectionResetError("reset"), StorageBusyError, "no answer"),
        (TimeoutError(), StorageBusyError, "no answer"),
        (NO_ENTRY, StorageError, "it is not there"),
        (OSError(errno.ENOTDIR, "Not a directory"), StorageError, "Not a directory"),
        (RuntimeError("what is this"), StorageError, "what is this"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_says_whether_to_wait_or_to_mend_something(
    error: Exception, kind: type[StorageError], reason: str
) -> None:
    made = translated(error, "write", "s3://b/x")
    assert isinstance(made, kind)
    assert isinstance(made, StorageBusyError) == (kind is StorageBusyError)
    assert isinstance(made, StorageDeniedError) == (kind is StorageDeniedError)
    assert str(made).startswith("cannot write s3://b/x: ")
    assert reason in str(made)


def test_the_services_word_counts_more_than_the_error_it_was_wrapped_in() -> None:
    wrapped = FileNotFoundError("The specified bucket does not exist")
    wrapped.__cause__ = ServiceError("NoSuchBucket")
    assert isinstance(translated(wrapped, "list", "s3://b/x"), StorageDeniedError)
    unfinished = OSError(errno.EINVAL, "incomplete body")
    unfinished.__cause__ = ServiceError("IncompleteBody")
    assert isinstance(translated(unfinished, "list", "s3://b/x"), StorageBusyError)


# ---- trying again


@pytest.mark.parametrize("kind", [Fault.ERROR, Fault.BUSY, Fault.LOST, Fault.TORN, Fault.SLOW, Fault.EXPIRED])
def test_what_fails_for_now_is_tried_again_until_it_is_done(kind: Fault) -> None:
    storage, state = faulty(seed=3, rate=0.6, kinds=kind)
    for number in range(12):
        storage.put(f"a/{number}", f"content {number}".encode())
    assert [storage.read(f"a/{number}") for number in range(12)] == [f"content {n}".encode() for n in range(12)]
    storage.remove_folder("a")
    assert storage.entries() == ()
    assert state.injected[kind] > 5


def test_other_processes_meet_the_faults_that_the_environment_asks_for(tmp_path: Path) -> None:
    code = (
        "from holdfast_checkpoint.storage import Storage\n"
        f"storage = Storage('faulty://{tmp_path}/x', pause_s=0.0, give_up_s=0.02)\n"
        "print(storage._backend._fs._seed)\n"
        "storage.put('a', b'x')\n"
    )
    given = faulty_environment(tmp_path / "site", seed=7, rate=1.0, kinds="busy,error")
    paths = os.pathsep.join([given["PYTHONPATH"], *sys.path])
    environment = {**os.environ, **given, "PYTHONPATH": paths}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "7\n", ran.stderr
    assert "StorageBusyError: cannot write faulty://" in ran.stderr
    assert "injected: " in ran.stderr


def test_each_further_try_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    storage, state = faulty(seed=3, rate=0.6, kinds=Fault.BUSY)
    with caplog.at_level(logging.WARNING, "holdfast_checkpoint"):
        storage.put("logged", b"x")
        storage.read("logged")
        storage.entries()
    retries = [record for record in caplog.records if record.message == "storage.retry"]
    assert len(retries) == state.injected[Fault.BUSY] > 0


def test_a_storage_that_never_recovers_is_given_up() -> None:
    storage, state = faulty(rate=1.0, kinds=Fault.BUSY, give_up_s=0.05)
    with pytest.raises(StorageBusyError, match=r"cannot write faulty:///storage-test/a: .* tried for 0.05 s"):
        storage.put("a", b"x")
    assert state.injected[Fault.BUSY] > 1


def test_what_is_denied_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, _ = faulty(rate=0.0)
    calls: list[str] = []

    def refuse(path: str, *rest: object) -> None:
        calls.append(path)
        raise ServiceError("AccessDenied")

    monkeypatch.setattr(storage._backend, "put", refuse)
    with pytest.raises(StorageDeniedError):
        storage.put("a", b"x")
    assert calls == ["a"]


def test_expired_credentials_are_read_anew_before_the_next_try() -> None:
    storage, state = faulty(seed=1, rate=0.9, kinds=Fault.EXPIRED)
    before = storage._backend
    storage.put("a", b"x")
    assert state.injected[Fault.EXPIRED] > 0
    assert storage._backend is not before


def test_credentials_that_stay_expired_are_an_error_to_mend() -> None:
    storage, _ = faulty(rate=1.0, kinds=Fault.EXPIRED, give_up_s=0.05)
    with pytest.raises(StorageDeniedError, match="the credentials have expired; renew them"):
        storage.put("a", b"x")


def test_closing_ends_the_wait_for_another_try() -> None:
    patience = Patience(give_up_s=3600.0, pause_s=3600.0)
    tried = threading.Event()
    errors: list[BaseException] = []

    def fail() -> None:
        tried.set()
        raise ConnectionResetError("gone")

    def work() -> None:
        try:
            patience.call(fail, "write", "s3://b/x")
        except StorageBusyError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert tried.wait(10)
    patience.stopped.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1


# ---- local files


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(".")]


def test_create_only_never_replaces(local: Storage, tmp_path: Path) -> None:
    assert local.put("f/a", b"first", create_only=True)
    assert not local.put("f/a", b"second", create_only=True)
    assert local.read("f/a") == b"first"
    assert local.put("f/a", b"third")
    assert local.read("f/a") == b"third"
    assert partial_files(tmp_path) == []


def test_of_many_that_create_one_file_at_once_one_wins(local: Storage, tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    won: list[bytes] = []

    def create(content: bytes) -> None:
        barrier.wait()
        if local.put("a", content, create_only=True):
            won.append(content)

    threads = [threading.Thread(target=create, args=(bytes([number]) * 1000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert local.read("a") == won[0]
    assert partial_files(tmp_path) == []


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order in which files are flushed and get their names."""
    events: list[str] = []
    fsync, replace, link = os.fsync, Path.replace, os.link

    def tell_fsync(file: int) -> None:
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{file}')).name.split('.')[1:2] or 'folder'}")
        fsync(file)

    def tell_replace(path: Path, to: Path) -> None:
        events.append("name")
        replace(path, to)

    def tell_link(path: Path, to: Path) -> None:
        events.append("name")
        link(path, to)

    monkeypatch.setattr(os, "fsync", tell_fsync)
    monkeypatch.setattr(Path, "replace", tell_replace)
    monkeypatch.setattr(os, "link", tell_link)
    return events


@pytest.mark.parametrize("create_only", [True, False])
def test_a_file_is_flushed_before_it_gets_its_name_and_its_folder_after(
    local: Storage, flushed: list[str], create_only: bool
) -> None:
    local.put("a", b"x")
    flushed.clear()
    local.put("b", b"x", create_only=create_only)
    assert flushed == ["flush ['b']", "name", "flush folder"]


def test_new_folders_are_flushed_into_their_parents(local: Storage, flushed: list[str]) -> None:
    local.put("f/g/a", b"x")
    assert flushed[:-3] == ["flush folder"] * 3  # root, f and g


def test_a_blob_that_cannot_be_written_leaves_the_old_one_and_no_trace(
    local: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = b"old" * 3000, b"new" * 3000
    with in_memory(old) as path, Source(path, digest_in_chunks(old, 1024), "it") as source:
        local.put_file("f/a", source)

    def full(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with in_memory(new) as path, Source(path, digest_in_chunks(new, 1024), "it") as source:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageError, match="the storage is full; make room"):
            local.put_file("f/a", source)
    monkeypatch.undo()
    assert local.read("f/a") == old
    assert partial_files(tmp_path) == []


def test_a_source_that_changes_while_it_is_stored_is_found(local: Storage, tmp_path: Path) -> None:
    content = bytes(range(256)) * 64
    with in_memory(content) as path, Source(path, digest_in_chunks(content, 1024), "layer 3") as source:
        os.pwrite(int(path.rpartition("/")[2]), b"!", 5000)
        with pytest.raises(CorruptError, match="layer 3 is corrupt between bytes 4096 and 5120"):
            local.put_file("a", source)
        os.truncate(path, 6000)
        with pytest.raises(CorruptError, match="layer 3 "):
            local.put_file("a", source)
    assert local.entries() == ()
    assert partial_files(tmp_path) == []


def test_a_place_that_is_a_file_or_forbidden_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot write .*file/a/b: .*(Not a directory|File exists)"):
        Storage(f"{tmp_path}/file").put("a/b", b"x")


def test_a_file_system_without_hard_links_still_creates(local: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, to: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert local.put("a", b"first", create_only=True)
    assert not local.put("a", b"second", create_only=True)
    assert local.read("a") == b"first"
