"""Communication of one generation in one worker: formed together, aborted together, closed together.

Not every wait of gloo ends when its sockets are shut down: a rank that connects to a peer which died in that very
moment waits for five timeouts, and a message that was received in part is forgotten (the pair tells all its pending
operations of the error but that one). So an abort makes nearly every wait end at once, and `worker.supervised` leaves a
thread behind that is caught in one of the others. Nothing that returns after an abort is taken for a result.

The heartbeat says COMMUNICATE while an operation blocks here, or one of the schedule's own does. From there a thread
comes back to what is held only through `enter`, which an abort closes; and only there it may be left behind.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from holdfast.errors import AbortedError, CommunicationError
from holdfast.model.heartbeat import Phase
from holdfast.worker.process_groups import Backend, Message, ProcessGroup, open_sockets, require_answers
from holdfast.worker.pulse import Pulse
from holdfast.worker.sealed import SealedStore, introduce

T = TypeVar("T")
WORLD = "world"  # the group of all ranks of a generation
_REGISTERED = "holdfast"
# Only the agent decides that a wait is too long; this bounds how long a thread that was left behind lives on.
_TIMEOUT = timedelta(minutes=30)
# A connection whose other end is out of reach for so long counts as lost. Then agents probe.
_SILENCE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A group this worker belongs to, by a name that no other group of the generation has.

    Every worker lists its groups in the same global order.
    """

    name: str
    rank: int
    size: int


class Comm:
    """All collectives of a generation go through here; a broken one raises CommunicationError."""

    def __init__(
        self, backend: Backend, store_host: str, store_port: int, generation: int, key: bytes, pulse: Pulse
    ) -> None:
        """`key`: the job's, for what ranks tell each other in the c10d store."""
        self._backend, self._pulse = backend, pulse
        self._key = key
        self._store_address = (store_host, store_port)
        self._generation = generation
        self._lock = threading.Lock()
        self._aborted = False
        self._groups: dict[str, ProcessGroup] = {}
        self._sockets: frozenset[int] = frozenset()
        self._before: frozenset[int] | None = None  # sockets that were open before the groups that are being formed
        self._registered = False

    def form(self, specs: Sequence[GroupSpec]) -> None:
        """Form all groups, in order; collective over the members of each.

        Raises:
            CommunicationError: a peer was lost meanwhile, or `abort` was called.
        """
        self._before = before = frozenset(open_sockets().values())
        host, port = self._store_address
        groups = self._guard(lambda: self._form(host, port, specs))
        with self._lock:
            if self._aborted:
                raise AbortedError(f"aborted while forming groups of generation {self._generation}")
            self._groups = groups
            self._sockets = frozenset(open_sockets().values()) - before
            self._before = None
        require_answers(self._sockets, _SILENCE_S)

    def _form(self, host: str, port: int, specs: Sequence[GroupSpec]) -> dict[str, ProcessGroup]:
        store = dist.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
        return {spec.name: self._form_one(store, spec) for spec in specs}

    def _form_one(self, store: dist.Store, spec: GroupSpec) -> ProcessGroup:
        sealed = SealedStore(store, self._key, f"{self._generation}/{spec.name}")
        group = self._backend.create(sealed, spec.rank, spec.size, _TIMEOUT)
        if self._backend.takes_strangers:
            introduce(partial(self._backend.exchange, group), spec.rank, spec.size, sealed)
        return group

    def abort(self) -> None:
        """End what blocks, at once. Called from another thread than the one that trains; idempotent."""
        with self._lock:
            self._aborted = True
            sockets = self._sockets
            if self._before is not None:  # still forming, when nothing else opens sockets
                sockets = frozenset(open_sockets().values()) - self._before
            self._backend.abort(list(self._groups.values()), sockets)

    @property
    def aborted(self) -> bool:
        return self._aborted

    def enter(self, phase: Phase) -> None:
        """A heartbeat: COMPUTE before what is not to be left behind, COMMUNICATE before a wait for others.

        Raises: AbortedError: the generation is over; then there is no heartbeat either.
        """
        with self._lock:
            self._require_going_on()
            self._pulse.beat(phase)

    def register_default(self, name: str) -> None:
        """Make group `name` torch's default group, which torch.distributed.pipelining speaks through.

        Raises: AbortedError.
        """
        group = self._group(name)
        dist.Backend.register_backend(_REGISTERED, lambda *_: group, devices=["cpu", "cuda"])
        dist.init_process_group(_REGISTERED, store=dist.HashStore(), rank=group.rank(), world_size=group.size())
        self._registered = True

    def close(self) -> None:
        """Destroy the groups; what still blocks in them ends."""
        self.abort()
        if self._registered:
            dist.destroy_process_group()
            self._registered = False
        self._groups = {}

    def all_reduce(self, name: str, *tensors: Tensor) -> None:
        """Sum each of `tensors` over the group, in place; blocks. Raises: CommunicationError."""
        group = self._group(name)
        self._guard(lambda: self._backend.all_reduce(group, tensors))

    def exchange(self, name: str, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Point-to-point messages of this rank within the group; blocks. Raises: CommunicationError."""
        group = self._group(name)
        self._guard(lambda: self._backend.exchange(group, sends, receives))

    def _group(self, name: str) -> ProcessGroup:
        with self._lock:
            self._require_going_on()
            return self._groups[name]

    def _require_going_on(self) -> None:
        if self._aborted:
            raise AbortedError(f"aborted in generation {self._generation}")

    def _guard(self, operation: Callable[[], T]) -> T:
        """`operation` of the backend: what it waits for are others, what follows it is this rank's own work."""
        self.enter(Phase.COMMUNICATE)
        try:
            result = operation()
        except Exception as error:  # after an abort a backend may raise anything
            if self._aborted or isinstance(error, RuntimeError):
                raise self.translate(error) from error
            raise
        self.enter(Phase.COMPUTE)
        return result

    def translate(self, error: Exception) -> CommunicationError:
        """What an error of the backend means here: aborted by us, or a peer lost."""
        kind = AbortedError if self._aborted else CommunicationError
        return kind((str(error) or type(error).__name__).splitlines()[0][:300])
