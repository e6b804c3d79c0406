"""Runs a generation on a thread of its own, which is left behind if an abort finds it caught in communication.

What a thread that is left behind may still do is harmless: it waits for a message that will not come, and comes back
from there only through its Comm, where after an abort everything raises. So it never reaches what is held again, and
what it raises then is nobody's failure.
"""

import logging
import threading
import time
from collections.abc import Callable

from holdfast.model.heartbeat import Phase
from holdfast.worker.comm import Comm
from holdfast.worker.pulse import Pulse

log = logging.getLogger(__name__)

# An abort ends a wait within about a millisecond, unless it does not end it at all.
_CAUGHT_S = 0.1
_LOOK_S = 0.01


class Supervised:
    """One run. `aborted` is called by the thread that hears of the abort, after it aborted the Comm."""

    def __init__(self, work: Callable[[], None], comm: Comm, pulse: Pulse) -> None:
        """`work` raises nothing."""
        self._work, self._comm, self._pulse = work, comm, pulse
        self._over = False
        self.left_behind = False
        self._wake = threading.Event()

    def run(self) -> None:
        """Returns when the work is over, or left behind."""
        threading.Thread(target=self._thread, name="generation", daemon=True).start()
        self._wake.wait()
        if not self._over:
            self._wait_for_abort()
        self._comm.close()

    def aborted(self) -> None:
        self._wake.set()

    def _thread(self) -> None:
        self._work()
        self._over = True
        self._wake.set()

    def _wait_for_abort(self) -> None:
        """Compute is waited for, however long: it stops at the next layer. Communication only so long."""
        last, since_s = self._pulse.last, time.monotonic()
        while not self._over:
            time.sleep(_LOOK_S)
            if self._pulse.last != last or self._pulse.last.phase is not Phase.COMMUNICATE:
                last, since_s = self._pulse.last, time.monotonic()
            elif time.monotonic() - since_s > _CAUGHT_S:
                self.left_behind = True
                log.warning("generation.thread_left_behind", extra={"step": last.step})
                return
