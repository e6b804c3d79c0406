"""The worker's end of the socket to its agent: frames in and out, and the thread that reads them.

The reader runs beside the training thread so that an abort reaches a worker that is blocked in a collective.
"""

import logging
import queue
import socket
import threading
from collections.abc import Callable

from holdfast.errors import ProtocolError
from holdfast.model.messages import Copied, Exit, FromWorker, Restored, Spoilt, Start, Stop, ToWorker, Uploaded
from holdfast.model.wire import FRAME_HEAD, check_frame_size, decode_message, encode_message, frame

log = logging.getLogger(__name__)
_KINDS: dict[str, type[ToWorker]] = {
    kind.__name__: kind for kind in (Stop, Start, Exit, Restored, Copied, Spoilt, Uploaded)
}


class Channel:
    """Orders arrive in order in `inbox`; Stop and Exit are shown to `on_urgent` first, on the reader's thread. What is
    said of stored state goes to `on_stored`, on that thread too."""

    def __init__(
        self,
        connection: socket.socket,
        on_urgent: Callable[[Stop | Exit], None],
        on_stored: Callable[[Restored | Copied | Spoilt | Uploaded], None],
    ) -> None:
        self.inbox: queue.SimpleQueue[Stop | Start | Exit] = queue.SimpleQueue()
        self._connection = connection
        self._on_urgent, self._on_stored = on_urgent, on_stored
        self._write_lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._read, name="agent-channel", daemon=True).start()

    def send(self, message: FromWorker) -> None:
        data = frame(encode_message(message))
        with self._write_lock:
            self._connection.sendall(data)

    def _read(self) -> None:
        stream = self._connection.makefile("rb")
        while True:
            try:
                head = stream.read(FRAME_HEAD.size)
                if len(head) < FRAME_HEAD.size:
                    break
                (size,) = FRAME_HEAD.unpack(head)
                check_frame_size(size)
                message = decode_message(_KINDS, stream.read(size))
            except OSError:
                break
            except ProtocolError as error:
                log.error("agent.protocol", extra={"error": str(error)})
                break
            self._deliver(message)
        self._deliver(Exit(reason="the agent is gone"))

    def _deliver(self, message: ToWorker) -> None:
        if isinstance(message, Restored | Copied | Spoilt | Uploaded):
            self._on_stored(message)
            return
        if not isinstance(message, Start):
            self._on_urgent(message)
        self.inbox.put(message)
