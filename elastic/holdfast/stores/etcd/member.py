"""One etcd member as seen from here: a gRPC channel to it, and the streams that must leave it if it falls silent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from aetcd import rpc
from grpc.aio import AioRpcError

from holdfast.stores.etcd.failures import describe
from holdfast.stores.etcd.tls import TlsFiles

_MESSAGE_BYTES_MAX = 64 << 20

_OPTIONS = (
    # Each store its own connections: shared ones would outlive it, and one store's backoff delay another.
    ("grpc.use_local_subchannel_pool", 1),
    # A rendezvous is never behind a web proxy, though the environment may name one.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in truth the time one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that died silently is noticed after their sum. etcd hangs up on who asks more than every 5 s.
    ("grpc.keepalive_time_ms", 7_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Without it the answer to a keepalive's ping is awaited for a minute (gRPC 1.85), whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
)


class Member:
    """Build it inside a running event loop; nothing connects before the first call."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        self.address = address
        self._channel = _open_channel(address, tls)
        self.auth = rpc.AuthStub(self._channel)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)
        self.streams = rpc.WatchStub(self._channel)
        self._on_distrust: set[Callable[[], None]] = set()

    async def connect(self, *, timeout_s: float) -> str | None:
        """None once connected, otherwise what was the matter. What is sent afterwards really goes out."""
        if self._is_ready():
            return None
        try:
            # Any call would do. Only its failure tells why there is no connection.
            await self.maintenance.Status(rpc.StatusRequest(), timeout=timeout_s)
        except AioRpcError as error:
            return None if self._is_ready() else describe(error)
        return None

    def watch_over(self, on_distrust: Callable[[], None]) -> Callable[[], None]:
        """Have `on_distrust` called when this member falls silent; call the result to be left in peace."""
        self._on_distrust.add(on_distrust)
        return lambda: self._on_distrust.discard(on_distrust)

    def distrust(self) -> None:
        """It did not answer in time: it may be frozen or cut off without either end being told."""
        for on_distrust in tuple(self._on_distrust):
            on_distrust()

    async def close(self) -> None:
        await self._channel.close()

    def _is_ready(self) -> bool:
        return bool(self._channel.get_state() is grpc.ChannelConnectivity.READY)


async def answer_of(call: Awaitable[Any]) -> Any:
    """Await a gRPC call or read; of a channel closed meanwhile it says so by an error that is not our own cancellation.

    Raises:
        ConnectionAbortedError: the call was ended from this side, by `close` or a stream's end.
    """
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionAbortedError("the call was ended from this side") from None


def _open_channel(address: str, tls: TlsFiles | None) -> Any:
    if tls is None:
        return rpc.insecure_channel(address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca, private_key=tls.key, certificate_chain=tls.certificate
    )
    return rpc.secure_channel(address, credentials, options=_OPTIONS)
