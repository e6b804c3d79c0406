"""The server's side of one client's connection: requests in, replies out.

Rule: requests are answered whole and in the order they came, save for polls, which wait on the side.
"""

import asyncio
import logging

from holdfast.errors import ProtocolError, StoreError
from holdfast.stores.ledger import Ledger
from holdfast.stores.memory import MemoryStore
from holdfast.stores.wire import (
    REQUEST_BYTES_MAX,
    WRITES,
    decode_bytes,
    decode_compare,
    decode_operation,
    encode_error,
    encode_frame,
    encode_key_value,
    encode_polled,
    read_frame,
)

log = logging.getLogger(__name__)

_POLL_WAIT_MAX_S = 60.0


class Connection:
    """A client that has been admitted; `session` names it over all its connections."""

    def __init__(
        self,
        store: MemoryStore,
        ledger: Ledger,
        session: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._session = session
        self._reader = reader
        self._writer = writer
        self._polls: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the client leaves.

        Raises:
            ProtocolError: it sent what cannot be understood.
            OSError: the connection broke.
        """
        try:
            while (message := await read_frame(self._reader, bytes_max=REQUEST_BYTES_MAX)) is not None:
                await self._handle(message)
                # A client that does not read its replies is not read from either.
                await self._writer.drain()
        finally:
            for poll in self._polls.values():
                poll.cancel()
            if self._polls:
                await asyncio.wait(list(self._polls.values()))

    async def _handle(self, message: dict[str, object]) -> None:
        match message:
            case {"id": int(call_id), "settled": int(settled), "method": str(method), "args": list(args)}:
                self._ledger.settle(self._session, settled)
                if method == "poll":
                    self._start_poll(call_id, args)
                elif method in WRITES:
                    await self._write_once(call_id, method, args)
                else:
                    self._writer.write(_reply(call_id, await _execute(self._store, method, args)))
            case {"cancel": int(call_id)}:
                if call_id in self._polls:
                    self._polls[call_id].cancel()
            case _:
                raise ProtocolError(f"request is {repr(message)[:200]}; it must have id, settled, method and args")

    async def _write_once(self, call_id: int, method: str, args: list[object]) -> None:
        if self._ledger.is_settled(self._session, call_id):
            return
        reply = self._ledger.recall(self._session, call_id)
        if reply is None:
            # No other task runs between the write and its record: neither yields to the loop.
            reply = _reply(call_id, await _execute(self._store, method, args))
            self._ledger.record(self._session, call_id, reply)
        self._writer.write(reply)

    def _start_poll(self, call_id: int, args: list[object]) -> None:
        if call_id in self._polls:
            raise ProtocolError(f"poll id {call_id} is in use on this connection; ids count up")
        poll = asyncio.create_task(self._poll(call_id, args), name=f"store-poll-{call_id}")
        self._polls[call_id] = poll
        poll.add_done_callback(lambda _: self._polls.pop(call_id, None))

    async def _poll(self, call_id: int, args: list[object]) -> None:
        try:
            reply = _reply(call_id, await _execute(self._store, "poll", args))
        except ProtocolError as error:
            log.warning("store.malformed_frame", extra={"error": str(error)})
            self._writer.transport.abort()
        else:
            self._writer.write(reply)


def _reply(call_id: int, outcome: object) -> bytes:
    if isinstance(outcome, Exception):
        return encode_frame({"id": call_id, "error": encode_error(outcome)})
    try:
        return encode_frame({"id": call_id, "result": outcome})
    except ValueError as error:
        return encode_frame({"id": call_id, "error": encode_error(error)})


async def _execute(store: MemoryStore, method: str, args: list[object]) -> object:
    """The result as JSON, or the error that the caller shall see, as a value.

    Raises:
        ProtocolError: no such method, or its arguments have another shape.
    """
    try:
        match method, args:
            case "get", [str(key)]:
                kv = await store.get(key)
                return None if kv is None else encode_key_value(kv)
            case "get_prefix", [str(prefix)]:
                snapshot = await store.get_prefix(prefix)
                return [snapshot.revision, [encode_key_value(kv) for kv in snapshot.kvs]]
            case "put", [str(key), str(value), int(lease)]:
                return await store.put(key, decode_bytes(value), lease)
            case "delete", [str(key)]:
                return await store.delete(key)
            case "transact", [list(compares), list(then), list(otherwise)]:
                result = await store.transact(
                    [decode_compare(raw) for raw in compares],
                    [decode_operation(raw) for raw in then],
                    [decode_operation(raw) for raw in otherwise],
                )
                return [result.succeeded, result.revision]
            case "grant", [int() | float() as ttl_s]:
                return await store.grant(ttl_s)
            case "keep_alive", [int(lease)]:
                return await store.keep_alive(lease)
            case "revoke", [int(lease)]:
                await store.revoke(lease)
                return None
            case "poll", [str(prefix), int(from_revision), int() | float() as wait_s]:
                wait_s = min(wait_s, _POLL_WAIT_MAX_S)
                return encode_polled(await store.poll(prefix, from_revision, wait_s=wait_s))
    except (StoreError, ValueError) as error:
        return error
    raise ProtocolError(f"no method {method!r} takes {repr(args)[:200]}; client and server differ")
