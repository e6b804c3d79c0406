"""The agent of this machine, if there is one: takes over what a script saves, and finds it again for one that loads."""

import fcntl
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TypeAlias

from holdfast_checkpoint.agent_messages import (
    AGENT,
    Begin,
    Done,
    Hand,
    Look,
    Named,
    Open,
    Opened,
    Refused,
    Sights,
    decode_answer,
    encode,
    receive,
    script_of,
    send,
)
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError, NoCheckpointError, StorageError

log = logging.getLogger(__name__)
_CONNECT_S = 5.0
# Above what it needs by itself; and where it has to fetch from peers, at least so many bytes a second.
_ANSWER_S = 30.0
_FETCHED_BYTES_S = 10e6
_Question: TypeAlias = Look | Begin | Hand | Open
_Answer: TypeAlias = Sights | Opened | Done | Refused


class AgentGoneError(StorageError):
    """It cannot be reached, or stopped answering."""


class LocalAgent:
    """For one URL; for any thread. The connection is made when it is first needed, and anew after `close`."""

    def __init__(self, path: Path, url: str, script: str | None = None) -> None:
        """`script`: as `script_of`."""
        self.path, self._script = path, script_of(url, script)
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._gone: str | None = None

    def look(self, copied_s: float = 0.0) -> Sights:
        """Saves that are whole in the agents' memory; see `Look`. Raises: AgentGoneError, StorageError."""
        answer, _ = self._ask(Look(script=self._script, copied_s=copied_s), _ANSWER_S + copied_s)
        if not isinstance(answer, Sights):
            raise StorageError(f"{self.path}: the agent does not say what it holds")
        return answer

    def begin(self, save: Named, blobs: int, kept: Named | None) -> None:
        """Raises: AgentGoneError, StorageError."""
        pair = (kept.step, kept.generation) if kept is not None else None
        message = Begin(script=self._script, step=save.step, generation=save.generation, blobs=blobs, kept=pair)
        self._ask(message, _ANSWER_S)

    def hand(
        self, save: Named, layer: int | None, rank: int, fd: int, digest: Digest, *, is_only: bool = False
    ) -> None:
        """The memory file `fd`, which nobody may write to from now on; see `Hand`.

        Raises: AgentGoneError, StorageError, NoCheckpointError.
        """
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        step, generation = save.step, save.generation
        message = Hand(
            script=self._script,
            step=step,
            generation=generation,
            layer=layer,
            rank=rank,
            digest=digest,
            is_only=is_only,
        )
        self._ask(message, _ANSWER_S, fd)

    def open(self, save: Named, layer: int | None, *, size: int = 0, doubted: bool = False) -> tuple[int, str]:
        """A descriptor of the nearest copy, the caller's to close, and the node whose it is. `size`: about.

        Raises:
            NoCheckpointError: no agent that lives has one.
            AgentGoneError, StorageError.
        """
        message = Open(script=self._script, step=save.step, generation=save.generation, layer=layer, doubted=doubted)
        answer, fd = self._ask(message, _ANSWER_S + size / _FETCHED_BYTES_S)
        if not isinstance(answer, Opened) or fd is None:
            raise StorageError(f"{self.path}: the agent gave no file")
        return fd, answer.source

    def close(self) -> None:
        """The agent forgets what it fetched for us."""
        with self._lock:
            self._drop()
            self._gone = None

    def _ask(self, question: _Question, within_s: float, fd: int | None = None) -> tuple[_Answer, int | None]:
        with self._lock:
            if self._gone is not None:  # nobody waits for it again and again
                raise AgentGoneError(self._gone)
            try:
                connection = self._connected()
                connection.settimeout(within_s)
                send(connection, encode(question), fd)
                data, given = receive(connection)
            except (OSError, CheckpointError) as error:
                self._drop()
                if isinstance(error, CheckpointError):
                    raise
                self._gone = f"{self.path}: the agent does not answer ({error})"
                raise AgentGoneError(self._gone) from error
        try:
            return self._granted(decode_answer(data)), given
        except CheckpointError:
            if given is not None:
                os.close(given)
            raise

    def _granted(self, answer: _Answer) -> _Answer:
        """Raises: NoCheckpointError, StorageError: it is refused."""
        if isinstance(answer, Refused):
            kind = NoCheckpointError if answer.is_missing else StorageError
            raise kind(f"the agent at {self.path}: {answer.reason}")
        return answer

    def _connected(self) -> socket.socket:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(_CONNECT_S)
                connection.connect(str(self.path))
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def local_agent(path: str | os.PathLike[str] | None, url: str, script: str | None) -> LocalAgent | None:
    """The one at `path`, else at HOLDFAST_AGENT; None, with a line in the log, if neither names any."""
    named = os.fspath(path) if path is not None else os.environ.get(AGENT, "")
    if named:
        return LocalAgent(Path(named), url, script)
    log.info("checkpoint.no_agent", extra={"reason": f"{AGENT} is not set"})
    return None


def sights_of(agent: LocalAgent, copied_s: float = 0.0) -> Sights | None:
    """As `LocalAgent.look`; None, with a line in the log, if it does not answer."""
    try:
        return agent.look(copied_s)
    except CheckpointError as error:
        log.warning("checkpoint.no_agent", extra={"reason": str(error)})
        return None
