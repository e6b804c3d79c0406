"""One place in a file system or object store, named by a URL and reached through fsspec.

Its methods raise errors of `errors.CheckpointError` only, each naming the URL, temporary ones after having tried again
for `give_up_s`. Nothing is cached. Credentials come from the environment or the client's own files, never from here.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from holdfast_checkpoint.digest import Buffer
from holdfast_checkpoint.errors import CheckpointError, StorageBusyError, StorageError
from holdfast_checkpoint.storage_any import AnyBackend
from holdfast_checkpoint.storage_backend import Backend, Entry, Source
from holdfast_checkpoint.storage_errors import ExpiredError, MissingError, translated
from holdfast_checkpoint.storage_local import LocalBackend
from holdfast_checkpoint.storage_retry import Patience
from holdfast_checkpoint.storage_s3 import S3Backend

T = TypeVar("T")
_SECRETS = ("key", "secret", "token", "password", "account_key", "sas_token", "connection_string")
# The client tries no more than once itself, see storage_s3; a part may take a minute on a slow line.
_S3_CONFIG = {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


class Storage:
    """Paths are relative to the URL. Safe for threads."""

    def __init__(
        self,
        url: str,
        *,
        give_up_s: float = 60.0,
        pause_s: float = 0.2,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are the fsspec filesystem's own (an endpoint, a region); none of them is a secret.

        Raises: StorageError: the URL or an option is refused, or a package is missing.
        """
        self.url = check_url(url)
        self._options = check_options(self.url, options or {})
        self._stopped = threading.Event()
        self._patience = Patience(give_up_s=give_up_s, pause_s=pause_s, stopped=self._stopped)
        self._backend = self._open()

    @property
    def streams(self) -> int:
        """How many reads at once use it well."""
        return self._backend.streams

    def url_of(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}" if path else self.url

    def put(self, path: str, data: Buffer, *, create_only: bool = False) -> bool:
        """Small data, whole. False: there is one already.

        With `create_only` False may mean our own: written by a try whose answer was lost. Read it to know. Some
        storages cannot tell in one step, and overwrite one that another writer creates meanwhile.
        """
        return self._call("write", path, lambda backend: backend.put(path, data, create_only))

    def put_file(self, path: str, source: Source) -> None:
        """A blob, whole, in place of what is there. Raises: CorruptError: not what `source` should be."""

        def store(backend: Backend) -> None:
            backend.put_file(path, source)
            stored = backend.size_of(path)
            if stored != source.size:
                raise StorageBusyError(f"{self.url_of(path)} has {stored} of {source.size} bytes after it was written")

        self._call("write", path, store)

    def size_of(self, path: str) -> int | None:
        """None: it is not there."""
        with contextlib.suppress(MissingError):
            return self._call("look at", path, lambda backend: backend.size_of(path))
        return None

    def entries(self, folder: str = "") -> Sequence[Entry]:
        """All below `folder`, at any depth."""
        try:
            return self._call("list", folder, lambda backend: backend.entries(folder))
        except MissingError:
            return ()

    def read(self, path: str) -> bytes | None:
        """All of a small one; None: it is not there."""

        def whole(backend: Backend) -> bytes:
            data = bytearray(backend.size_of(path))
            count = backend.read_into(path, 0, memoryview(data)) if data else 0
            return bytes(data[:count])

        with contextlib.suppress(MissingError):
            return self._call("read", path, whole)
        return None

    def read_into(self, path: str, start: int, buffer: memoryview) -> int | None:
        """Bytes read: fewer than asked for only at the end; None: it is not there."""
        with contextlib.suppress(MissingError):
            return self._call("read", path, lambda backend: backend.read_into(path, start, buffer))
        return None

    def remove(self, path: str) -> None:
        self._call("delete", path, lambda backend: backend.remove(path))

    def remove_folder(self, folder: str) -> None:
        self._call("delete", folder, lambda backend: backend.remove_folder(folder))

    def close(self) -> None:
        """Whoever waits to try again gives up at once, as does whoever would begin to."""
        self._stopped.set()

    def _call(self, doing: str, path: str, work: Callable[[Backend], T]) -> T:
        return self._patience.call(lambda: work(self._backend), doing, self.url_of(path), self._renew)

    def _renew(self, error: CheckpointError) -> None:
        """Before another try: a client keeps the credentials that it began with, so take another one."""
        if isinstance(error, ExpiredError):
            self._backend = self._open()

    def _open(self) -> Backend:
        protocol = protocol_of(self.url)
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False} | self._options
        if protocol in {"s3", "s3a"}:
            options["config_kwargs"] = _S3_CONFIG | dict(options.get("config_kwargs", {}))
        try:
            filesystem, root = fsspec.url_to_fs(self.url, **options)
        except ImportError as error:
            package = _PACKAGES.get(protocol, "the package that fsspec's documentation names for it")
            raise StorageError(f"{self.url} needs a package that is not installed: pip install '{package}'") from error
        except Exception as error:  # as in `Patience`: each file system has its own
            raise translated(error, "open", self.url) from error
        if isinstance(filesystem, LocalFileSystem):
            return LocalBackend(root)
        if protocol in {"s3", "s3a"}:
            return S3Backend(filesystem, root, self._patience)
        return AnyBackend(filesystem, root)


def protocol_of(url: str) -> str:
    return url.partition("://")[0] if "://" in url else "file"


def check_url(url: str) -> str:
    """As shown to people: without a slash at its end; a path made absolute.

    Raises: StorageError: it names nothing, or holds credentials, which then are not in the message.
    """
    if "://" not in url:
        if not url:
            raise StorageError("the checkpoint URL is empty; give a folder, or a URL such as s3://bucket/folder")
        return str(Path(url).absolute())
    protocol = protocol_of(url)
    if protocol in {"file", "local"}:
        return url.rstrip("/")
    parts = urlsplit(url)
    bare = f"{protocol}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if ":" in parts.netloc.rpartition("@")[0] or (parts.username and protocol.startswith(("s3", "gs", "gcs"))):
        raise StorageError(
            f"the checkpoint URL for {bare} holds credentials; leave them out, and {_where_from(protocol)}"
        )
    if parts.query or parts.fragment:
        raise StorageError(
            f"the checkpoint URL for {bare} has a '?' or '#'; leave out all from there on,"
            f" and for credentials, {_where_from(protocol)}"
        )
    if "::" in url:
        raise StorageError(f"the checkpoint URL {bare} chains file systems with '::'; name one alone")
    if protocol in {"s3", "s3a", "gs", "gcs"} and not parts.netloc:
        raise StorageError(f"the checkpoint URL {url} names no bucket; use {protocol}://bucket/folder")
    return url.rstrip("/")


def check_options(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises: StorageError: one holds credentials."""
    secret = sorted(set(options) & set(_SECRETS))
    if secret:
        raise StorageError(
            f"storage option {secret[0]!r} for {url} is a credential; leave it out, and {_where_from(protocol_of(url))}"
        )
    return dict(options)


def _where_from(protocol: str) -> str:
    if protocol in {"s3", "s3a"}:
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use ~/.aws/credentials, or the machine's role"
    if protocol in {"gs", "gcs"}:
        return "set GOOGLE_APPLICATION_CREDENTIALS to a file, or use the machine's role"
    return "put them into the environment or a file, as the storage's fsspec package documents"
