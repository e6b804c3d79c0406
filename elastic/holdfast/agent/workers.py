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

from holdfast.agent.fork_server import Command, ForkServerProcess, RunningServer
from holdfast.agent.same_user import is_ours
from holdfast.errors import ProtocolError
from holdfast.model import heartbeat
from holdfast.model.heartbeat import Beat, Permit, Phase
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.messages import (
    Broken,
    Committed,
    Failed,
    Finished,
    FromWorker,
    Paced,
    Parked,
    Ready,
    Running,
    SnapshotBegun,
    Snapshotted,
    ToWorker,
    WorkerOrder,
)
from holdfast.model.records import JobRecord
from holdfast.model.wire import FRAME_HEAD, check_frame_size, decode_message, encode, encode_message, frame

log = logging.getLogger(__name__)
KINDS: dict[str, type[FromWorker]] = {
    kind.__name__: kind
    for kind in (Ready, Parked, Running, Committed, Paced, SnapshotBegun, Snapshotted, Broken, Failed, Finished)
}
_SHOW_STACKS_S = 0.1
# Between the end of a worker's socket and the zygote's word of how it ended: rarely more than a millisecond.
_STATUS_S = 0.02
_KILL_AGAIN_S, _KILL_AGAIN_MAX_S = 2.0, 60.0


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
    told: bool = False  # that it ended
    killed: str = ""  # why its agent killed it
    kill_again_s: float = 0.0  # not before, by the monotonic clock
    kill_pause_s: float = _KILL_AGAIN_S
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
        key: bytes,
        ram: Path | None,
        on_message: Callable[[int, FromWorker], None],
        on_end: Callable[[int, int, str], None],
        zygote: RunningServer | None = None,
    ) -> None:
        """`zygote`: one that runs already."""
        self._node, self._host, self._scratch, self._job, self._key = node, host, scratch, job, key
        self._ram, self._on_message, self._on_end = ram, on_message, on_end
        self._slots: dict[int, _Slot] = {}
        self._zygote = ForkServerProcess(
            "zygote",
            Command(module="holdfast.worker.zygote", arguments=("--node", node)),
            self._spawned,
            self._exited,
            self._unborn,
            running=zygote,
        )
        self._servers: list[asyncio.Server] = []
        self._permit = Permit(0.0, 0)

    async def open(self, slots: int) -> None:
        for index in range(slots):
            self._slots[index] = _Slot()
            server = await asyncio.start_unix_server(partial(self._serve, index), self._socket(index))
            self._servers.append(server)

    async def spawn(self, index: int) -> None:
        slot = self._slots[index]
        slot.spawned += 1
        slot.alive, slot.pid, slot.writer, slot.last, slot.told, slot.killed = True, None, None, None, False, ""
        slot.last_change_s = time.monotonic()
        slot.kill_again_s, slot.kill_pause_s = 0.0, _KILL_AGAIN_S
        beat = heartbeat.pack(Beat(0, Phase.IDLE, 0))
        self._pulse(index).write_bytes(beat + heartbeat.pack_permit(self._permit))
        order = WorkerOrder(
            slot=SlotId(self._node, index),
            host=self._host,
            socket_path=str(self._socket(index)),
            pulse_path=str(self._pulse(index)),
            key=self._key.hex(),
            job=self._job,
            ram=str(self._ram) if self._ram is not None else "",
        )
        await self._zygote.fork(index, slot.spawned, encode(order))

    def tell(self, index: int, message: ToWorker) -> None:
        writer = self._slots[index].writer
        if writer is not None and not writer.is_closing():
            writer.write(frame(encode_message(message)))

    def kill(self, index: int, reason: str, *, show_stacks: bool = False) -> None:
        """`show_stacks`: have it write where it is to the log first, which it can if it does not hold the GIL. One that
        does not end, since the kernel cannot end it, is tried again ever more rarely."""
        slot, now_s = self._slots[index], time.monotonic()
        if now_s < slot.kill_again_s:
            return
        slot.kill_again_s, slot.kill_pause_s = now_s + slot.kill_pause_s, min(2 * slot.kill_pause_s, _KILL_AGAIN_MAX_S)
        pid = slot.pid
        log.warning("worker.kill", extra={"slot": f"{self._node}/{index}", "pid": pid, "reason": reason})
        slot.killed = reason
        if pid is not None and show_stacks:
            _signal(pid, signal.SIGUSR1)
            asyncio.get_running_loop().call_later(_SHOW_STACKS_S, _signal, pid, signal.SIGKILL)
        elif pid is not None:
            _signal(pid, signal.SIGKILL)

    def permit(self, permit: Permit) -> None:
        """Until when, and from which generation on, all of them may vote; also those that are yet to come."""
        self._permit = permit
        for index, slot in self._slots.items():
            if slot.spawned:
                with self._pulse(index).open("r+b") as file:
                    file.seek(heartbeat.SIZE)
                    file.write(heartbeat.pack_permit(permit))

    def is_alive(self, index: int) -> bool:
        """Whether its present process has not ended, so far as is known."""
        return self._slots[index].alive

    def pid(self, index: int) -> int | None:
        """Of its present process, once that is known."""
        return self._slots[index].pid

    def pids(self) -> tuple[int, ...]:
        return tuple(slot.pid for slot in self._slots.values() if slot.alive and slot.pid is not None)

    def silent_s(self, index: int) -> tuple[Phase, float]:
        """What the worker was doing when its heart last beat, and how long ago that was."""
        slot = self._slots[index]
        beat = heartbeat.unpack(self._pulse(index).read_bytes()[: heartbeat.SIZE])
        now = time.monotonic()
        if beat != slot.last:
            slot.last, slot.last_change_s = beat, now
        return beat.phase, now - slot.last_change_s

    async def close(self) -> None:
        for slot in self._slots.values():
            slot.told = True  # of ends that are meant nobody is told
        for server in self._servers:
            server.close()
        await self._zygote.close()
        for index, slot in self._slots.items():
            if slot.alive:
                self.kill(index, "the agent ends")
                slot.alive = False

    def _socket(self, index: int) -> Path:
        return self._scratch / f"slot-{index}.sock"

    def _pulse(self, index: int) -> Path:
        return self._scratch / f"slot-{index}.pulse"

    async def _serve(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        slot = self._slots[index]
        number = slot.spawned
        if slot.writer is not None or not is_ours(writer.get_extra_info("socket")):
            log.error("worker.stranger", extra={"slot": f"{self._node}/{index}"})
            writer.transport.abort()
            return
        slot.writer = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                (size,) = FRAME_HEAD.unpack(await reader.readexactly(FRAME_HEAD.size))
                try:
                    check_frame_size(size)
                    message = decode_message(KINDS, await reader.readexactly(size))
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

    def _unborn(self, index: int, number: int, status: int) -> None:
        """The zygote ended. Workers that are connected end with it, and their sockets tell; of others nobody else
        would."""
        if self._slots[index].writer is None:
            self._ended(index, number, status, f"its zygote ended: {_explain(status, '')}")

    def _ended(self, index: int, number: int, status: int | None, why: str = "") -> None:
        """`status` None: its socket closed, and of what it died will be known in a moment."""
        slot = self._slots[index]
        if number != slot.spawned or slot.told:
            return
        if status is not None:
            slot.alive, slot.told = False, True
            why = why or _explain(status, slot.killed)
            extra = {"slot": f"{self._node}/{index}", "pid": slot.pid, "status": status, "why": why}
            log.warning("worker.ended", extra=extra)
            self._on_end(index, status, why)
        elif slot.alive:
            slot.alive = False
            if slot.pid is not None:
                _signal(slot.pid, signal.SIGKILL)  # no-op for one that died; one that only let go must not go on
            loop = asyncio.get_running_loop()
            loop.call_later(_STATUS_S, self._ended, index, number, -signal.SIGKILL)


def _explain(status: int, killed: str) -> str:
    """Of what a worker died. `killed`: why its agent killed it, if it did."""
    if killed:
        return f"killed by its agent: {killed}"
    if status == -signal.SIGKILL:
        return "killed by SIGKILL; if nobody did that, the kernel did for want of memory"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
