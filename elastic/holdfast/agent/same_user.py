"""Who is at the other end of a unix socket."""

import os
import socket
import struct

_PEER_CREDENTIALS = struct.Struct("3i")  # pid, user, group


def is_ours(connection: socket.socket) -> bool:
    """Whether a process of this user is; the folder keeps others out, the kernel vouches for it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, user, _ = _PEER_CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())
