"""Connections that carry copies yield to those that carry training's own traffic, and stay below a rate together.

The kernel does both: it spaces out the packets of a connection (SO_MAX_PACING_RATE, whatever writes to it, sendfile and
TLS alike), and queues those of low priority behind others, on this machine and in networks that heed DSCP.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Iterator

log = logging.getLogger(__name__)
_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h; the socket module does not name it
_UNPACED = (1 << 64) - 1
_RATE_MIN = 1 << 16
_LOWER_EFFORT = 0x01 << 2  # RFC 8622, as the byte that holds the DSCP
_TC_PRIO_BULK = 2  # linux/pkt_sched.h


class Pacer:
    """Shares `bytes_s` evenly among the connections that are sending. None: does not hold them back."""

    def __init__(self, bytes_s: int | None) -> None:
        self._bytes_s = bytes_s
        self._sending: list[socket.socket] = []

    @contextlib.contextmanager
    def paced(self, transport: asyncio.BaseTransport, *, urgent: bool) -> Iterator[None]:
        """While inside. An urgent one is neither paced nor put last."""
        connection = transport.get_extra_info("socket")
        if urgent or connection is None:
            yield
            return
        _put_last(connection)
        self._sending.append(connection)
        self._share()
        try:
            yield
        finally:
            self._sending.remove(connection)
            self._share()

    def _share(self) -> None:
        if self._bytes_s is None:
            return
        for connection in self._sending:
            rate = max(_RATE_MIN, self._bytes_s // len(self._sending))
            _set(connection, socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("@Q", min(rate, _UNPACED)))


def _put_last(connection: socket.socket) -> None:
    if connection.family == socket.AF_INET6:
        _set(connection, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _LOWER_EFFORT)
    else:
        _set(connection, socket.IPPROTO_IP, socket.IP_TOS, _LOWER_EFFORT)
    _set(connection, socket.SOL_SOCKET, socket.SO_PRIORITY, _TC_PRIO_BULK)  # after the TOS, which sets it too


def _set(connection: socket.socket, level: int, option: int, value: int | bytes) -> None:
    """A courtesy, not a promise: where the kernel cannot, or the connection is gone, it goes on without."""
    try:
        connection.setsockopt(level, option, value)
    except OSError as error:
        log.info("pacing.refused", extra={"option": option, "error": str(error)})
