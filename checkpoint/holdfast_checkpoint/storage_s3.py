"""Checkpoints in S3, or what speaks its protocol, through s3fs's client: every object appears whole or not at all.

Small objects are one PUT, conditional where it matters; large ones a multipart upload, completed only when all its
parts are there and aborted otherwise. (s3fs's file objects are not used: they complete even after an error.)
"""

import asyncio
import io
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fsspec.asyn import sync

from holdfast_checkpoint.digest import Buffer
from holdfast_checkpoint.storage_backend import Entry, Source
from holdfast_checkpoint.storage_errors import code_of
from holdfast_checkpoint.storage_retry import Patience

T = TypeVar("T")
PART_BYTES_MIN = 32 << 20  # S3 wants 5 MiB or more
PARTS_MAX = 9_000  # S3 allows 10,000
_UPLOADS = 6  # parts on their way at once: as many times PART_BYTES_MIN is held in memory
_KEYS_MAX = 1_000  # of one request that deletes
_ABORT_WITHIN_S = 5.0
_READ_BYTES = 1 << 20
_EXISTS = frozenset({"PreconditionFailed", "412"})
log = logging.getLogger(__name__)


class S3Backend:
    def __init__(self, filesystem: Any, root: str, patience: Patience) -> None:
        """`filesystem`: an s3fs.S3FileSystem of its own."""
        self.streams = 8
        # Trying again is our matter alone: two loops of tries, one in the other, take far too long to give up.
        filesystem.retries = 1
        self._fs, self._patience = filesystem, patience
        self._bucket, _, prefix = root.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def put(self, path: str, data: Buffer, create_only: bool) -> bool:
        condition = {"IfNoneMatch": "*"} if create_only else {}
        try:
            self._call("put_object", Key=self._key(path), body=io.BytesIO(data), **condition)
        except OSError as error:
            if create_only and code_of(error) in _EXISTS:
                return False
            raise
        return True

    def put_file(self, path: str, source: Source) -> None:
        part_bytes = _part_bytes(source)
        if source.size <= part_bytes:
            self._call("put_object", Key=self._key(path), body=_stream(source, 0, source.size))
            return
        self._run(lambda: self._put_in_parts(self._key(path), source, part_bytes))

    def size_of(self, path: str) -> int:
        return int(self._call("head_object", Key=self._key(path))["ContentLength"])

    def entries(self, folder: str) -> Sequence[Entry]:
        found: list[Entry] = []
        more: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._folder_key(folder), **more)
            found += [self._entry(one) for one in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read_into(self, path: str, start: int, buffer: memoryview) -> int:
        return self._run(lambda: self._read_into(self._key(path), start, buffer))

    def remove(self, path: str) -> None:
        self._call("delete_object", Key=self._key(path))

    def remove_folder(self, folder: str) -> None:
        keys = [self._key(entry.path) for entry in self.entries(folder)]
        for at in range(0, len(keys), _KEYS_MAX):
            objects = [{"Key": key} for key in keys[at : at + _KEYS_MAX]]
            refused = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True}).get("Errors")
            if refused:
                raise _RefusedError(refused[0])
        self._abort_uploads(folder)

    def _abort_uploads(self, folder: str) -> None:
        """Of writers that were killed: their parts cost money until somebody does. Not all servers know the request."""
        try:
            begun = self._call("list_multipart_uploads", Prefix=self._folder_key(folder)).get("Uploads", ())
            for upload in begun:
                self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
        except OSError as error:
            log.info("storage.uploads_left", extra={"folder": folder, "error": str(error)})

    async def _put_in_parts(self, key: str, source: Source, part_bytes: int) -> None:
        upload = (await self._try("create_multipart_upload", key))["UploadId"]
        try:
            parts = await self._put_parts(key, upload, source, part_bytes)
            await self._try("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            await self._abort(key, upload)
            raise

    async def _abort(self, key: str, upload: str) -> None:
        try:
            async with asyncio.timeout(_ABORT_WITHIN_S):
                await self._request("abort_multipart_upload", Key=key, UploadId=upload)
        except Exception as error:  # what made us stop is the news; `remove_folder` aborts what is left
            log.info("storage.uploads_left", extra={"key": key, "error": str(error)})

    async def _put_parts(self, key: str, upload: str, source: Source, part_bytes: int) -> list[dict[str, Any]]:
        tags: dict[int, str] = {}
        starts = iter(range(0, source.size, part_bytes))

        async def take_turns() -> None:
            for start in starts:
                number, stop = start // part_bytes + 1, min(start + part_bytes, source.size)
                body = await asyncio.to_thread(_stream, source, start, stop)
                reply = await self._try("upload_part", key, UploadId=upload, PartNumber=number, body=body)
                tags[number] = reply["ETag"]

        try:
            async with asyncio.TaskGroup() as group:
                for turn in range(_UPLOADS):
                    group.create_task(take_turns(), name=f"upload-{turn}")
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]

    async def _read_into(self, key: str, start: int, buffer: memoryview) -> int:
        span = f"bytes={start}-{start + len(buffer) - 1}"
        try:
            reply = await self._request("get_object", Key=key, Range=span)
        except OSError as error:
            if code_of(error) in {"InvalidRange", "416"}:
                return 0  # it ends before
            raise
        at = 0
        async with reply["Body"] as body:
            while at < len(buffer) and (piece := await body.read(min(_READ_BYTES, len(buffer) - at))):
                buffer[at : at + len(piece)] = piece
                at += len(piece)
        return at

    async def _try(self, method: str, key: str, **arguments: Any) -> Any:
        """One request of many that make an upload; only itself is repeated if it fails for now."""
        url = f"s3://{self._bucket}/{key}"
        return await self._patience.call_part(lambda: self._request(method, Key=key, **arguments), "write", url)

    async def _request(self, method: str, body: io.BytesIO | None = None, **arguments: Any) -> Any:
        if body is not None:
            # As a stream the client sends it piece by piece; whole it would hold up all else on its loop.
            body.seek(0)  # it may have been sent before
            arguments["Body"] = body
        return await self._fs._call_s3(method, Bucket=self._bucket, **arguments)

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._run(lambda: self._request(method, **arguments))

    def _run(self, coroutine: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """On the loop of fsspec's thread, in which its clients live."""
        result: T = sync(self._fs.loop, coroutine)
        return result

    def _key(self, path: str) -> str:
        return self._prefix + path

    def _folder_key(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix

    def _entry(self, item: dict[str, Any]) -> Entry:
        path = item["Key"].removeprefix(self._prefix)
        return Entry(path=path, size=item["Size"], modified_s=item["LastModified"].timestamp())


class _RefusedError(OSError):
    """One key of a request that deletes many: the request itself succeeds."""

    def __init__(self, reply: dict[str, Any]) -> None:
        super().__init__(f"{reply.get('Key')}: {reply.get('Message')}")
        self.response = {"Error": reply}


def _stream(source: Source, start: int, stop: int) -> io.BytesIO:
    """Of bytes that nobody else holds: those of others it would copy once the client asks for their number."""
    return io.BytesIO(source.read(start, stop))


def _part_bytes(source: Source) -> int:
    """Whole chunks of the digest, so that each part is verified alone; larger where there would be too many."""
    chunk_bytes = source.digest.chunk_bytes
    wanted = max(PART_BYTES_MIN, -(-source.size // PARTS_MAX))
    return -(-wanted // chunk_bytes) * chunk_bytes
