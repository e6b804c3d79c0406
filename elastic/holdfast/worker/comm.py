"""Communication of one generation in one worker: formed together, aborted together, closed together.

Groups are formed on a thread of their own. gloo cannot be stopped while it connects (it may wait five timeouts
for a peer that died in that very moment), so an abort leaves that thread behind instead of waiting for it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from holdfast.errors import AbortedError, CommunicationError
from holdfast.worker.process_groups import Backend, Message, ProcessGroup, open_sockets

T = TypeVar("T")
WORLD = "world"  # the group of all ranks of a generation
_REGISTERED = "holdfast"
# Only the agent decides that a wait is too long: this bounds what an abandoned thread may leave behind.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A group this worker belongs to, by a name that no other group of the generation has.

    Every worker lists its groups in the same global order.
    """

    name: str
    rank: int
    size: int


@dataclass(slots=True)
class _Formed:
    groups: dict[str, ProcessGroup] = field(default_factory=dict)
    sockets: frozenset[int] = frozenset()
    error: Exception | None = None


class Comm:
    """All collectives of a generation go through here; a broken one raises CommunicationError."""

    def __init__(self, backend: Backend, store_host: str, store_port: int, generation: int) -> None:
        self._backend = backend
        self._store_address = (store_host, store_port)
        self._generation = generation
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._aborted = False
        self._formed = _Formed()
        self._registered = False

    def form(self, specs: Sequence[GroupSpec]) -> None:
        """Form all groups, in order; collective over the members of each.

        Raises:
            CommunicationError: a peer was lost meanwhile.
            AbortedError: `abort` was called.
        """
        formed = _Formed()
        threading.Thread(target=self._form, args=(specs, formed), name="form-groups", daemon=True).start()
        self._wake.wait()
        with self._lock:
            if self._aborted:
                raise AbortedError(f"aborted while forming groups of generation {self._generation}")
            if formed.error is not None:
                raise CommunicationError(f"forming groups failed: {formed.error}") from formed.error
            self._formed = formed

    def _form(self, specs: Sequence[GroupSpec], formed: _Formed) -> None:
        before = frozenset(open_sockets().values())
        try:
            host, port = self._store_address
            store = dist.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
            for spec in specs:
                prefixed = dist.PrefixStore(f"{self._generation}/{spec.name}", store)
                formed.groups[spec.name] = self._backend.create(prefixed, spec.rank, spec.size, _TIMEOUT)
        except Exception as error:  # the boundary of this thread: `form` raises it on the caller's
            formed.error = error
        formed.sockets = frozenset(open_sockets().values()) - before
        self._wake.set()

    def abort(self) -> None:
        """End what blocks, at once. Called from another thread than the one that trains; idempotent."""
        with self._lock:
            self._aborted = True
            self._wake.set()
            self._backend.abort(list(self._formed.groups.values()), self._formed.sockets)

    @property
    def aborted(self) -> bool:
        return self._aborted

    def register_default(self, name: str) -> None:
        """Make group `name` torch's default group, which torch.distributed.pipelining speaks through."""
        group = self._formed.groups[name]
        dist.Backend.register_backend(_REGISTERED, lambda *_: group, devices=["cpu", "cuda"])
        dist.init_process_group(_REGISTERED, store=dist.HashStore(), rank=group.rank(), world_size=group.size())
        self._registered = True

    def close(self) -> None:
        """Destroy the groups; what still blocks in them ends."""
        self.abort()
        if self._registered:
            dist.destroy_process_group()
            self._registered = False
        self._formed = _Formed()

    def all_reduce(self, name: str, tensor: Tensor) -> None:
        """Sum `tensor` over the group, in place; blocks. Raises: CommunicationError."""
        group = self._formed.groups[name]
        self._guard(lambda: group.allreduce([tensor]).wait())

    def exchange(self, name: str, sends: Sequence[Message], receives: Sequence[Message]) -> None:
        """Point-to-point messages of this rank within the group; blocks. Raises: CommunicationError."""
        group = self._formed.groups[name]
        self._guard(lambda: self._backend.exchange(group, sends, receives))

    def _guard(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except RuntimeError as error:
            raise self.translate(error) from error

    def translate(self, error: RuntimeError) -> CommunicationError:
        """What an error of the backend means here: aborted by us, or a peer lost."""
        kind = AbortedError if self._aborted else CommunicationError
        return kind(str(error).splitlines()[0][:300])
