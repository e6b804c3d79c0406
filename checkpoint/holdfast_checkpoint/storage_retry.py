"""How long a storage that fails for now is tried again: with growing, random pauses, until that took too long."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    wait_random_exponential,
)

from holdfast_checkpoint.errors import CheckpointError, StorageBusyError
from holdfast_checkpoint.storage_errors import ExpiredError, LostUploadError, translated

PAUSE_MAX_S = 5.0
PART_PATIENCE = 0.25
T = TypeVar("T")
log = logging.getLogger(__name__)


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, StorageBusyError | ExpiredError)


def _is_temporary_for_a_part(error: BaseException) -> bool:
    """Of an upload. What began with credentials that ran out, or was forgotten, must begin anew."""
    return isinstance(error, StorageBusyError) and not isinstance(error, LostUploadError)


class _FailingTooLong:
    """Counts from the first failure, not from the start: a long upload that fails once deserves another try too."""

    def __init__(self, give_up_s: float, stopped: threading.Event) -> None:
        self._give_up_s, self._stopped = give_up_s, stopped
        self._first_s: float | None = None

    def __call__(self, state: RetryCallState) -> bool:
        now_s = time.monotonic()
        self._first_s = now_s if self._first_s is None else self._first_s
        return self._stopped.is_set() or now_s + state.upcoming_sleep - self._first_s > self._give_up_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`stopped`: once set, whoever waits to try again gives up at once."""

    give_up_s: float = 60.0
    pause_s: float = 0.2  # about, before the second try
    stopped: threading.Event = field(default_factory=threading.Event)

    def call(
        self,
        function: Callable[[], T],
        doing: str,
        url: str,
        before_retry: Callable[[CheckpointError], None] = lambda error: None,
    ) -> T:
        """What `function` returns; its errors translated, temporary ones only after trying again for long enough.

        Raises: CheckpointError, and nothing else.
        """

        def attempt() -> T:
            try:
                return function()
            except Exception as error:  # clients of storages raise what they like; here it becomes one of ours
                raise translated(error, doing, url) from error

        retrying = Retrying(
            retry=retry_if_exception(_is_temporary),
            wait=wait_random_exponential(multiplier=self.pause_s, max=PAUSE_MAX_S),
            stop=_FailingTooLong(self.give_up_s, self.stopped),
            sleep=sleep_using_event(self.stopped),
            before_sleep=lambda state: before_retry(_tell(state, doing, url)),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except StorageBusyError as error:
            raise StorageBusyError(f"{error}; tried for {self.give_up_s:g} s") from error

    async def call_part(self, function: Callable[[], Awaitable[T]], doing: str, url: str) -> T:
        """As `call`, for one request of an upload; what only a new upload can mend is raised at once.

        Gives up earlier than the whole: not all servers say that they have forgotten an upload.
        """

        async def attempt() -> T:
            try:
                return await function()
            except Exception as error:  # as above
                raise translated(error, doing, url) from error

        def telling(state: RetryCallState) -> None:
            _tell(state, doing, url)

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_temporary_for_a_part),
            wait=wait_random_exponential(multiplier=self.pause_s, max=PAUSE_MAX_S),
            stop=_FailingTooLong(self.give_up_s * PART_PATIENCE, self.stopped),
            sleep=asyncio.sleep,
            before_sleep=telling,
            reraise=True,
        )
        return await retrying(attempt)


def _tell(state: RetryCallState, doing: str, url: str) -> CheckpointError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, CheckpointError), error
    facts = {"doing": doing, "url": url, "attempt": state.attempt_number, "pause_s": round(state.upcoming_sleep, 3)}
    log.warning("storage.retry", extra=facts | {"error": str(error)})
    return error
