"""A watch on etcd: a stream from one member, opened again elsewhere from the revision reached whenever it breaks.

Rule: the position (the revision to ask from next) moves only past revisions that were handed over whole. Reading goes
on in a task of its own, one step ahead at most: who waits for it may be cancelled without harm to it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from grpc.aio import AioRpcError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from holdfast.errors import CompactedError, StoreError
from holdfast.stores.etcd.cluster import Cluster, Metadata
from holdfast.stores.etcd.failures import is_temporary, translate
from holdfast.stores.etcd.member import Member, answer_of
from holdfast.stores.etcd.messages import Messages
from holdfast.stores.etcd.revisions import RevisionAssembler
from holdfast.stores.polling import Polled

log = logging.getLogger(__name__)

_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 0.5
# How long a member may take to begin a watch.
_OPEN_S = 5.0


class _StreamLostError(Exception):
    """The stream ended for a reason that another one may not meet."""


class _DeniedError(StoreError):
    """The user may not watch this; some versions of etcd say so of a stale token, too."""


class WatchFeed:
    """Polls for one `PolledWatch`. It waits for a lost store for ever, until `close` or `abandon`."""

    def __init__(self, cluster: Cluster, messages: Messages, prefix: str) -> None:
        self._cluster = cluster
        self._messages = messages
        self._prefix = prefix
        self._stream: _Stream | None = None
        self._step: asyncio.Task[Polled] | None = None
        self._was_denied = False
        self._loop = asyncio.get_running_loop()

    async def poll(self, from_revision: int) -> Polled:
        """What came at or after `from_revision`, which must be the `next_revision` of the poll before.

        Raises:
            StoreUnavailableError: the store was closed in this process.
            CompactedError, StoreError: this watch can have no more.
        """
        self._cluster.check_open()
        if self._step is None:
            name = f"store-watch-{self._prefix}"
            self._step = asyncio.create_task(self._advance(from_revision), name=name)
        # Unlike awaiting it, this leaves the task running if we are cancelled; the next poll takes its result.
        await asyncio.wait([self._step])
        step, self._step = self._step, None
        self._cluster.check_open()
        return step.result()

    async def close(self) -> None:
        """After the cluster was closed: ends the reading; a poll in progress raises StoreUnavailableError."""
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
        self._drop_stream()

    def abandon(self) -> None:
        """Nobody will poll again (called when the iterator is collected, from wherever that happens)."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abandon)

    def _abandon(self) -> None:
        if self._step is not None:
            self._step.cancel()
        self._drop_stream()

    async def _advance(self, from_revision: int) -> Polled:
        """Returns as soon as the position moved."""
        try:
            # Nearly always nothing is to be retried, and who follows hundreds of runs reads hundreds of times a second.
            return await self._read(from_revision)
        except _StreamLostError:
            pass  # another member may have it at once; from here on with pauses
        retrying = AsyncRetrying(
            wait=wait_random_exponential(multiplier=_BACKOFF_MIN_S, max=_BACKOFF_MAX_S),
            retry=retry_if_exception_type(_StreamLostError),
        )
        return await retrying(self._read, from_revision)

    async def _read(self, from_revision: int) -> Polled:
        try:
            stream = self._stream or await self._open(from_revision)
            polled = Polled(batches=(), next_revision=from_revision)
            while polled.next_revision == from_revision:
                polled = await stream.read()
            return polled
        except _StreamLostError as error:
            log.info("store.watch_lost", extra={"store": self._cluster.where, "error": str(error)})
            self._drop_stream()
            self._cluster.check_open()
            raise
        except BaseException:
            self._drop_stream()
            raise

    async def _open(self, from_revision: int) -> "_Stream":
        member, metadata = await self._cluster.connected()
        stream = _Stream(self._cluster, member, metadata, self._messages, self._prefix, from_revision)
        self._stream = stream
        try:
            await stream.open()
        except _DeniedError as error:
            if self._was_denied or not self._cluster.login_again(metadata):
                raise
            self._was_denied = True
            raise _StreamLostError(str(error)) from error
        self._was_denied = False
        return stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.end()
            self._stream = None


class _Stream:
    """One watch on one member."""

    def __init__(
        self,
        cluster: Cluster,
        member: Member,
        metadata: Metadata,
        messages: Messages,
        prefix: str,
        from_revision: int,
    ) -> None:
        self._cluster, self._member, self._metadata = cluster, member, metadata
        self._messages, self._prefix = messages, prefix
        self._from_revision = from_revision
        self._assembler = RevisionAssembler(from_revision)
        self._call: Any = member.streams.Watch(metadata=metadata)
        self._leave_in_peace = member.watch_over(self.end)

    async def open(self) -> None:
        try:
            async with asyncio.timeout(_OPEN_S), self._translating():
                await answer_of(self._call.write(self._messages.watch(self._prefix, self._from_revision)))
                await self._next_reply()
        except TimeoutError as error:
            self._cluster.fell_silent(self._member)
            raise _StreamLostError(f"{self._member.address} did not begin the watch within {_OPEN_S} s") from error

    async def read(self) -> Polled:
        async with self._translating():
            reply = await self._next_reply()
        if not reply.events and not reply.fragment:
            return self._assembler.skip_to(reply.header.revision)
        return self._assembler.take(self._messages.events(reply.events), fragment=reply.fragment)

    def end(self) -> None:
        """Whoever reads finds the stream lost."""
        self._leave_in_peace()
        self._call.cancel()

    async def _next_reply(self) -> Any:
        reply = await answer_of(self._call.read())
        if reply is grpc.aio.EOF:
            raise _StreamLostError(f"{self._member.address} ended the watch")
        if reply.compact_revision:
            raise CompactedError(
                f"the history since revision {self._from_revision} is compacted, the oldest kept is "
                f"{reply.compact_revision}; read prefix {self._prefix!r} again and watch from the snapshot's "
                "revision + 1"
            )
        if reply.canceled:
            raise self._refusal(reply.cancel_reason)
        return reply

    def _refusal(self, reason: str) -> Exception:
        if "permission denied" in reason:
            return _DeniedError(
                f"etcd at {self._member.address} refused to watch prefix {self._prefix!r}: {reason}; "
                "grant the user's role read access to it"
            )
        return _StreamLostError(f"{self._member.address} cancelled the watch: {reason or 'no reason given'}")

    @asynccontextmanager
    async def _translating(self) -> AsyncIterator[None]:
        try:
            yield
        except ConnectionAbortedError as error:
            raise _StreamLostError(str(error)) from error
        except AioRpcError as error:
            self._cluster.left(self._member, error, self._metadata)
            if not is_temporary(error):
                raise translate(error, f"watch of prefix {self._prefix!r}", self._member.address) from error
            raise _StreamLostError(str(error)) from error
