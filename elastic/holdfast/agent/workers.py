"""The worker processes of one node: their sockets, heartbeats and ends.

A worker counts as ended once: when its socket closes (the kernel closes it in the moment the process dies) or when
the zygote reports it, whichever comes first.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from holdfast.agent.zygote import ZygoteProcess
from holdfast.errors import ProtocolError
from holdfast.model import heartbeat
from holdfast.model.heartbeat import Beat, Phase
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import (
    Broken,
    Committed,
    Failed,
    Finished,
    FromWorker,
    Parked,
    Ready,
    Running,
    ToWorker,
    WorkerOrder,
)
from holdfast.model.records import JobRecord
from holdfast.model.wire import FRAME_HEAD, decode_message, encode, encode_message, frame

log = logging.getLogger(__name__)
_KINDS: dict[str, type[FromWorker]] = {
    kind.__name__: kind for kind in (Ready, Parked, Running, Committed, Broken, Failed, Finished)
}


_SHOW_STACKS_S = 0.1


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(slots=True)
class _Slot:
    """The process of one slot, if any."""

    spawned: int = 0  # how many times; tells the end of an old process from that of the present one
    pid: int | None = None
    writer: asyncio.StreamWriter | None = None
    alive: bool = False
    last: Beat | None = None
    last_change_s: float = 0.0
    ends: dict[int, int] = field(default_factory=dict)  # pid to spawn number


class Workers:
    """All slots of this node. Callbacks run on the event loop, in the order things happened."""

    def __init__(
        self,
        node: NodeId,
        host: str,
        scratch: Path,
        job: JobRecord,
        on_message: Callable[[int, FromWorker], None],
        on_end: Callable[[int, int], None],
    ) -> None:
        self._node, self._host, self._scratch, self._job = node, host, scratch, job
        self._on_message, self._on_end = on_message, on_end
        self._slots: dict[int, _Slot] = {}
        self._zygote = ZygoteProcess(node, self._spawned, self._exited)
        self._servers: list[asyncio.Server] = []

    async def open(self, slots: int) -> None:
        for index in range(slots):
            self._slots[index] = _Slot()
            server = await asyncio.start_unix_server(partial(self._serve, index), self._socket(index))
            self._servers.append(server)

    async def spawn(self, index: int) -> None:
        slot = self._slots[index]
        slot.spawned += 1
        slot.alive, slot.pid, slot.writer, slot.last = True, None, None, None
        slot.last_change_s = time.monotonic()
        self._pulse(index).write_bytes(heartbeat.pack(Beat(0, Phase.IDLE, 0)))
        order = WorkerOrder(
            slot=SlotId(self._node, index),
            host=self._host,
            socket_path=str(self._socket(index)),
            pulse_path=str(self._pulse(index)),
            job=self._job,
        )
        await self._zygote.fork(encode(order))

    def tell(self, index: int, message: ToWorker) -> None:
        writer = self._slots[index].writer
        if writer is not None and not writer.is_closing():
            writer.write(frame(encode_message(message)))

    def kill(self, index: int, reason: str, *, show_stacks: bool = False) -> None:
        """`show_stacks`: have it write where it is to the log first, which it can if it does not hold the GIL."""
        pid = self._slots[index].pid
        log.warning("worker.kill", extra={"slot": f"{self._node}/{index}", "pid": pid, "reason": reason})
        if pid is not None and show_stacks:
            _signal(pid, signal.SIGUSR1)
            asyncio.get_running_loop().call_later(_SHOW_STACKS_S, _signal, pid, signal.SIGKILL)
        elif pid is not None:
            _signal(pid, signal.SIGKILL)

    def pids(self) -> tuple[int, ...]:
        return tuple(slot.pid for slot in self._slots.values() if slot.alive and slot.pid is not None)

    def silent_s(self, index: int) -> tuple[Phase, float]:
        """What the worker was doing when its heart last beat, and how long ago that was."""
        slot = self._slots[index]
        beat = heartbeat.unpack(self._pulse(index).read_bytes())
        now = time.monotonic()
        if beat != slot.last:
            slot.last, slot.last_change_s = beat, now
        return beat.phase, now - slot.last_change_s

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        await self._zygote.close()
        for index, slot in self._slots.items():
            if slot.alive:
                self.kill(index, "the agent ends")

    def _socket(self, index: int) -> Path:
        return self._scratch / f"slot-{index}.sock"

    def _pulse(self, index: int) -> Path:
        return self._scratch / f"slot-{index}.pulse"

    async def _serve(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        slot = self._slots[index]
        number = slot.spawned
        slot.writer = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                (size,) = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
                try:
                    message = decode_message(_KINDS, await reader.readexactly(size))
                except ProtocolError as error:
                    log.error("worker.protocol", extra={"slot": f"{self._node}/{index}", "error": str(error)})
                    break
                if number != slot.spawned or not slot.alive:
                    break  # the last words of a process that counts as ended
                if isinstance(message, Ready):
                    slot.pid = message.pid
                self._on_message(index, message)
        writer.close()
        self._ended(index, number, None)

    def _spawned(self, index: int, pid: int) -> None:
        slot = self._slots[index]
        slot.pid = pid
        slot.ends[pid] = slot.spawned

    def _exited(self, pid: int, status: int) -> None:
        for index, slot in self._slots.items():
            if pid in slot.ends:
                self._ended(index, slot.ends.pop(pid), status)

    def _ended(self, index: int, number: int, status: int | None) -> None:
        slot = self._slots[index]
        if number != slot.spawned or not slot.alive:
            return
        slot.alive = False
        if status is None and slot.pid is not None:
            self.kill(index, "its socket closed")  # no-op for one that died; one that only let go must not go on
        log.warning("worker.ended", extra={"slot": f"{self._node}/{index}", "pid": slot.pid, "status": status})
        self._on_end(index, status if status is not None else -signal.SIGKILL)
