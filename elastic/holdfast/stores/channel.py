"""The client's end of the embedded store's connection: many calls in flight, outliving any one connection.

Rule: a call keeps its id for life, and every call without an answer is sent again, in order, on the next
connection. The server remembers what it answered to a write, so asking again never writes twice.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from holdfast.errors import ProtocolError, StoreError, StoreUnavailableError
from holdfast.stores.wire import (
    HANDSHAKE_BYTES_MAX,
    REQUEST_BYTES_MAX,
    WRITES,
    decode_error,
    encode_frame,
    prove,
    read_frame,
    set_nodelay,
)

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    is_write: bool
    frame: bytes
    answer: asyncio.Future[object]


class Channel:
    """Connects by itself, and again whenever the connection breaks. Build it inside a running event loop."""

    def __init__(self, host: str, port: int, *, secret: bytes) -> None:
        self.address = f"{host}:{port}"
        self._host, self._port, self._secret = host, port, secret
        self._loop = asyncio.get_running_loop()
        self._session = uuid.uuid4().hex
        self._store_id: str | None = None
        self._ids = count(1)
        # Those without an answer, in the order of their ids.
        self._calls: dict[int, _Call] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._heard_s = self._loop.time()
        self._trouble: Exception | None = None
        self._failure: StoreError | None = None
        self._runner = asyncio.create_task(self._run(), name=f"store-channel-{self.address}")

    @property
    def failed(self) -> bool:
        """Closed or refused: no call will succeed any more."""
        return self._failure is not None

    async def call(self, method: str, args: Sequence[object], *, timeout_s: float) -> object:
        """The server's result, waiting for a connection if there is none.

        Raises:
            StoreUnavailableError: no answer within `timeout_s`.
            ValueError: the arguments are wrong, or too large for a frame.
        """
        if self._failure is not None:
            raise _copy(self._failure)
        call_id = next(self._ids)
        # Reads do not count: a watch's poll waits long, and the server would keep all replies since.
        settled = next((earlier for earlier, call in self._calls.items() if call.is_write), call_id)
        request = {"id": call_id, "settled": settled, "method": method, "args": args}
        frame = encode_frame(request, bytes_max=REQUEST_BYTES_MAX)
        call = _Call(is_write=method in WRITES, frame=frame, answer=self._loop.create_future())
        self._calls[call_id] = call
        self._send(frame)
        asked_s = self._loop.time()
        try:
            async with asyncio.timeout(timeout_s):
                return await call.answer
        except TimeoutError as error:
            self._distrust(asked_s)
            raise StoreUnavailableError(
                f"store at {self.address} gave no answer to {method!r} within {timeout_s} s "
                f"(last trouble: {self._trouble or 'none'}); check that it runs and can be reached"
            ) from error
        finally:
            del self._calls[call_id]
            if call.answer.cancelled():
                self._send(encode_frame({"cancel": call_id}))

    async def close(self) -> None:
        """Idempotent. Calls in flight raise StoreUnavailableError."""
        self._fail(StoreUnavailableError(f"store client of {self.address} was closed; open another"))
        self._runner.cancel()
        await asyncio.wait([self._runner])

    def _send(self, frame: bytes) -> None:
        if self._writer is not None:
            self._writer.write(frame)

    def _distrust(self, asked_s: float) -> None:
        """Drop a connection that was silent through a whole call: it may be broken without either end being told."""
        if self._writer is not None and self._heard_s < asked_s:
            log.warning("store.connection_silent", extra={"store": self.address})
            self._writer.transport.abort()

    def _fail(self, failure: StoreError) -> None:
        self._failure = self._failure or failure
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(_copy(self._failure))

    async def _run(self) -> None:
        try:
            while True:
                await self._serve_connection(*await self._connect())
                # All clients of a restarted server notice at once; do not let them all come back at once.
                await asyncio.sleep(random.uniform(0, _BACKOFF_MIN_S))
        except StoreError as error:
            log.error("store.refused", extra={"store": self.address, "error": str(error)})
            self._fail(error)
        except Exception as error:  # The task's boundary: a bug here must fail the calls, not leave them waiting.
            log.exception("store.channel_failed", extra={"store": self.address})
            self._fail(StoreError(f"store client of {self.address} failed: {error!r}"))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Try for ever, as calls have deadlines of their own; only a refusal (StoreError) ends it."""
        retrying = AsyncRetrying(
            wait=wait_random_exponential(multiplier=_BACKOFF_MIN_S, max=_BACKOFF_MAX_S),
            retry=retry_if_exception_type((OSError, ProtocolError, TimeoutError)),
            before_sleep=self._note_trouble,
        )
        return await retrying(self._connect_once)

    def _note_trouble(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, Exception):
            self._trouble = error
            log.debug("store.connect_failed", extra={"store": self.address, "error": repr(error)})

    async def _connect_once(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                set_nodelay(writer)
                await self._shake_hands(reader, writer)
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match await read_frame(reader, bytes_max=HANDSHAKE_BYTES_MAX):
            case {"nonce": str(nonce)}:
                args = [self._session, prove(self._secret, nonce)]
            case other:
                raise ProtocolError(f"greeting is {other!r}; {self.address} is no Holdfast store")
        writer.write(encode_frame({"id": 0, "settled": 0, "method": "hello", "args": args}))
        match await read_frame(reader, bytes_max=HANDSHAKE_BYTES_MAX):
            case {"id": 0, "result": str(store_id)}:
                self._recognise(store_id)
            case {"id": 0, "error": error}:
                raise decode_error(error)
            case other:
                raise ProtocolError(f"answer to hello is {other!r}; {self.address} is no Holdfast store")

    def _recognise(self, store_id: str) -> None:
        if self._store_id not in (None, store_id):
            raise StoreError(
                f"store at {self.address} is {store_id}, but was {self._store_id}: it was started anew and "
                "its state is gone; open another client and begin again"
            )
        self._store_id = store_id

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._heard_s = self._loop.time()
        for call in self._calls.values():
            writer.write(call.frame)
        log.info("store.connected", extra={"store": self.address, "calls": len(self._calls)})
        try:
            while (message := await read_frame(reader)) is not None:
                self._heard_s = self._loop.time()
                self._settle(message)
            self._trouble = ConnectionError("the store closed the connection")
        except (OSError, ProtocolError) as error:
            self._trouble = error
        finally:
            self._writer = None
            writer.transport.abort()
        log.warning("store.connection_lost", extra={"store": self.address, "error": str(self._trouble)})

    def _settle(self, message: dict[str, object]) -> None:
        match message:
            case {"id": int(call_id), "result": result}:
                call = self._calls.get(call_id)
                # An unknown id belongs to a call that was cancelled or timed out.
                if call is not None and not call.answer.done():
                    call.answer.set_result(result)
            case {"id": int(call_id), "error": raw_error}:
                error, call = decode_error(raw_error), self._calls.get(call_id)
                if call is not None and not call.answer.done():
                    call.answer.set_exception(error)
            case _:
                raise ProtocolError(f"reply is {repr(message)[:200]}; it must have an id, and a result or an error")


def _copy(error: StoreError) -> StoreError:
    """Each call raises its own: a shared exception would gather the tracebacks of all."""
    return type(error)(*error.args)
