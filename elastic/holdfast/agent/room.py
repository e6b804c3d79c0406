"""What an agent has room for, of all scripts together: bytes in RAM, and blobs in what it says of itself."""

from collections.abc import Callable, Iterable

from holdfast.errors import ProtocolError
from holdfast_checkpoint.errors import StorageError
from holdfast_checkpoint.ram import RamTier

# A store takes 1.5 MB at most, etcd by default; of that a blob takes about so much.
_RECORD_BYTES_MAX = 1_000_000
_BLOB_BYTES = 20


class Room:
    """One an agent. `rams`: of all scripts; `record_bytes`: of the agent's record as it is."""

    def __init__(self, bytes_max: int, rams: Callable[[], Iterable[RamTier]], record_bytes: Callable[[], int]) -> None:
        self._bytes_max, self._rams, self._record_bytes = bytes_max, rams, record_bytes

    def take(self, size: int) -> None:
        """Raises: StorageError: with so many bytes more it would hold too many. What is held stays: the agent cannot
        know that nobody needs it."""
        held = sum(ram.held_bytes for ram in self._rams())
        if held + size > self._bytes_max:
            raise StorageError(
                f"no room for {size} bytes more: {held} of {self._bytes_max} are taken; give the agent more (--memory),"
                " have it forget old saves sooner (--forget), or let saves of one run share their script="
            )

    def tell_of(self, blobs: int) -> None:
        """Raises: ProtocolError: with so many blobs more the store would not take the agent's record."""
        expected = self._record_bytes() + _BLOB_BYTES * blobs
        if expected > _RECORD_BYTES_MAX:
            raise ProtocolError(
                f"with {blobs} blobs more the agent's record would have about {expected} bytes; the store takes "
                f"{_RECORD_BYTES_MAX}: make blobs larger (blob_bytes), or keep fewer scripts by one agent"
            )
