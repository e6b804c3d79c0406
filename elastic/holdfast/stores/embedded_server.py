"""The embedded store's server: a `MemoryStore` behind a socket, one connection per client.

Rule: a connection that breaks the protocol is closed and logged; nothing a client does ends the server.
"""

import asyncio
import hmac
import logging
import secrets
import uuid
from contextlib import suppress

from holdfast.errors import ProtocolError, StoreError
from holdfast.stores.embedded_connection import Connection
from holdfast.stores.keyspace import Keyspace
from holdfast.stores.ledger import Ledger
from holdfast.stores.memory import MemoryStore
from holdfast.stores.wire import (
    HANDSHAKE_BYTES_MAX,
    encode_error,
    encode_frame,
    prove,
    read_frame,
    set_nodelay,
)

log = logging.getLogger(__name__)

_HANDSHAKE_TIMEOUT_S = 5.0


class EmbeddedServer:
    """Serves one keyspace. Closed and started again it takes the same port, keys and identity, and every
    lease has its full time again; clients then carry on as after a broken connection.

    A client must know `secret`; the empty one admits anybody who can reach the port.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, keyspace: Keyspace | None = None, secret: bytes = b""
    ) -> None:
        self._host = host
        self._port = port
        self._keyspace = keyspace if keyspace is not None else Keyspace()
        self._secret = secret
        self._store_id = uuid.uuid4().hex
        self._ledger = Ledger()
        self._listener: asyncio.Server | None = None
        self._store: MemoryStore | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        """The one bound; before the first `start`, the one asked for (0: any)."""
        return self._port

    async def start(self) -> None:
        """Raises OSError if the port is taken."""
        if self._listener is not None:
            raise RuntimeError(f"store server on port {self._port} runs already; close it first")
        # Bound before the store is opened, so that a port that is taken leaves nothing behind.
        listener = await asyncio.start_server(self._serve, self._host, self._port, start_serving=False)
        self._listener, self._store = listener, MemoryStore(self._keyspace)
        await listener.start_serving()
        self._port = listener.sockets[0].getsockname()[1]
        log.info("store.serving", extra={"host": self._host, "port": self._port})

    async def close(self) -> None:
        """Idempotent. Connections first, so that clients see a lost connection and not a closed store."""
        if self._listener is None or self._store is None:
            return
        listener, store = self._listener, self._store
        self._listener = self._store = None
        listener.close()
        self.drop_connections()
        if self._connections:
            await asyncio.wait(list(self._connections))
        await store.close()
        await listener.wait_closed()

    def drop_connections(self) -> None:
        """Cut every client off, as a network fault would; they come back by themselves."""
        for writer in self._connections.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if self._store is None or task is None:
            writer.transport.abort()
            return
        self._connections[task] = writer
        peer = writer.get_extra_info("peername")
        try:
            set_nodelay(writer)
            session = await self._admit(reader, writer)
            await Connection(self._store, self._ledger, session, reader, writer).serve()
        except ProtocolError as error:
            log.warning("store.malformed_frame", extra={"peer": peer, "error": str(error)})
        except StoreError as error:
            log.warning("store.client_refused", extra={"peer": peer, "error": str(error)})
        except OSError as error:
            log.info("store.client_gone", extra={"peer": peer, "error": str(error)})
        except Exception:  # The task's boundary: a bug met by one client must not take the others' store away.
            log.exception("store.connection_failed", extra={"peer": peer})
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            del self._connections[task]

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The client's session, once it has proved to know the secret."""
        nonce = secrets.token_hex(16)
        writer.write(encode_frame({"nonce": nonce}))
        async with asyncio.timeout(_HANDSHAKE_TIMEOUT_S):
            hello = await read_frame(reader, bytes_max=HANDSHAKE_BYTES_MAX)
        match hello:
            case {"id": 0, "method": "hello", "args": [str(session), str(proof)]}:
                # Compared as bytes: of str, compare_digest takes only ASCII.
                if not hmac.compare_digest(proof.encode(), prove(self._secret, nonce).encode()):
                    error = StoreError("the store refused the client's secret; give both sides the same one")
                    writer.write(encode_frame({"id": 0, "error": encode_error(error)}))
                    raise error
                writer.write(encode_frame({"id": 0, "result": self._store_id}))
                return session
            case None:
                raise ConnectionError("left before saying hello")
            case other:
                raise ProtocolError(f"first message is {repr(other)[:200]}; it must be hello")
