"""The unix socket on which scripts of this machine hand over what they save, and ask for what they load.

Rule: only processes of the agent's own user are answered, and what they send is checked before it is used.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

from holdfast.agent.same_user import is_ours
from holdfast.agent.shelf import Shelf
from holdfast.errors import ProtocolError, UserError
from holdfast.model.wire import decode_message
from holdfast_checkpoint.agent_messages import (
    FRAME_HEAD,
    QUESTIONS,
    Begin,
    Done,
    Hand,
    Look,
    Open,
    Opened,
    Refused,
    Sights,
    encode,
    frame_bytes,
    send,
    take_head,
)
from holdfast_checkpoint.errors import CheckpointError, FormatError, NoCheckpointError

log = logging.getLogger(__name__)
# For the rest of a message once it has begun, and for an answer to be taken.
_STALLED_S = 30.0
_ACCEPT_AGAIN_S = 0.5
_PATH_BYTES_MAX = 107  # sun_path
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SCRIPT = re.compile("[0-9a-f]{16}")
_Question = Look | Begin | Hand | Open
_Answer = Sights | Opened | Done | Refused


class ScriptSocket:
    """One an agent. `shelf_of` gives the place of a script, made when it is first asked for."""

    def __init__(self, path: Path, shelf_of: Callable[[str], Shelf]) -> None:
        self._path, self._shelf_of = path, shelf_of
        self._listening: socket.socket | None = None

    def open(self) -> None:
        """Raises: UserError: another agent listens there, or the path cannot be used."""
        if len(os.fsencode(self._path)) > _PATH_BYTES_MAX:
            raise UserError(f"--socket {self._path}: is longer than {_PATH_BYTES_MAX} bytes; choose a shorter path")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if self._path.is_socket():
                self._remove_stale()
            listening.bind(str(self._path))
            self._path.chmod(0o600)
            listening.listen(128)
        except OSError as error:
            listening.close()
            raise UserError(
                f"--socket {self._path}: {error.strerror}; should be a path in a folder of this user that is free"
            ) from error
        except UserError:
            listening.close()
            raise
        self._listening = listening

    def _remove_stale(self) -> None:
        """Of an agent that died. Raises: UserError: one that lives."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink(missing_ok=True)
                return
        raise UserError(f"--socket {self._path}: another agent listens there; choose another path")

    def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._path.unlink(missing_ok=True)

    async def run(self) -> None:
        """For ever."""
        assert self._listening is not None, "opened before"
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listening)
                except OSError as error:  # no more open files: others may close some
                    log.error("script.not_accepted", extra={"error": str(error)})
                    await asyncio.sleep(_ACCEPT_AGAIN_S)
                    continue
                tasks.create_task(self._serve(connection), name="script")

    async def _serve(self, connection: socket.socket) -> None:
        """One script's process, to its end."""
        loads_from: set[Shelf] = set()
        with connection:
            connection.setblocking(False)
            if not is_ours(connection):
                log.error("script.stranger")
                return
            try:
                while True:
                    await self._answer_one(connection, loads_from)
            except ConnectionError:
                pass  # it has ended
            except (OSError, FormatError) as error:
                log.warning("script.broken", extra={"error": str(error) or repr(error)})
            except Exception:  # the task's boundary: what is held here must outlive a bug in how one script is served
                log.exception("script.failed")
            finally:
                for shelf in loads_from:
                    shelf.leave()

    async def _answer_one(self, connection: socket.socket, loads_from: set[Shelf]) -> None:
        data, fd = await _receive(connection)
        given = None
        try:
            answer, given = await self._answer(data, fd, loads_from)
            await asyncio.wait_for(asyncio.to_thread(_send, connection, encode(answer), given), 2 * _STALLED_S)
        finally:
            for held in (fd, given):
                if held is not None:
                    os.close(held)

    async def _answer(self, data: bytes, fd: int | None, loads_from: set[Shelf]) -> tuple[_Answer, int | None]:
        """And the file that goes along."""
        try:
            question: _Question = decode_message(QUESTIONS, data)
            if not _SCRIPT.fullmatch(question.script):
                raise ProtocolError(f"script {question.script[:50]!r}: should be 16 hexadecimal digits")
            shelf = self._shelf_of(question.script)
            match question:
                case Look():
                    return await shelf.look(question), None
                case Begin():
                    shelf.begin(question)
                    return Done(), None
                case Hand():
                    await shelf.hand(question, _checked(fd))
                    return Done(), None
                case Open():
                    if shelf not in loads_from:
                        loads_from.add(shelf)
                        shelf.enter()
                    copy, source = await shelf.open(question)
                    with copy.file.hold():
                        # Opened anew, so that nobody but the agent can write to it.
                        return Opened(source=source), os.open(copy.file.path, os.O_RDONLY | os.O_CLOEXEC)
        except NoCheckpointError as error:
            return Refused(reason=str(error), is_missing=True), None
        except (ProtocolError, CheckpointError, OSError) as error:
            log.warning("script.refused", extra={"error": str(error)})
            return Refused(reason=str(error)), None


def _checked(fd: int | None) -> str:
    """The path that opens it. Raises: ProtocolError: its size may still change, under whoever reads it."""
    try:
        if fd is not None and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS:
            return f"/proc/self/fd/{fd}"
    except OSError:
        pass  # not in memory: it has no seals
    raise ProtocolError("a blob comes with its file, in memory (memfd) and sealed against shrinking and growing")


async def _receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """One frame. Raises: OSError, FormatError; TimeoutError: it has begun, and does not end."""
    loop = asyncio.get_running_loop()
    await _readable(connection)
    head, fd = take_head(connection)
    try:
        async with asyncio.timeout(_STALLED_S):
            head += await _exactly(loop, connection, FRAME_HEAD.size - len(head))
            return await _exactly(loop, connection, frame_bytes(head)), fd
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise


async def _readable(connection: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


async def _exactly(loop: asyncio.AbstractEventLoop, connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = await loop.sock_recv(connection, min(size - len(data), 1 << 20))
        if not more:
            raise ConnectionResetError("the script closed in the middle of a message")
        data += more
    return bytes(data)


def _send(connection: socket.socket, data: bytes, fd: int | None) -> None:
    """Answers are short, and the script waits for them."""
    with connection.dup() as duplicate, contextlib.suppress(BrokenPipeError):
        duplicate.settimeout(_STALLED_S)
        send(duplicate, data, fd)
