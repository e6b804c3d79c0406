"""One agent's terms as coordinator, one after the other: it campaigns whenever nobody leads."""

import asyncio
import logging
from collections.abc import Callable

from holdfast.agent.following import StoreTrouble, is_refusal
from holdfast.agent.leading import Leader, LostLeadershipError
from holdfast.errors import StoreError
from holdfast.model.records import LeaderRecord

log = logging.getLogger(__name__)
# After a term that ended by a bug, before this agent leads again: others come first, and the log stays readable.
_BROKEN_S, _BROKEN_MAX_S = 5.0, 60.0
_REFUSED_S = 5.0


class Terms:
    """`vacant` is to be set when perhaps nobody leads. `me`: as whom, under which lease; None once it leaves."""

    def __init__(
        self,
        leader: Callable[[], Leader],
        me: Callable[[], tuple[LeaderRecord, int] | None],
        lost_s: float,
        away_s: float,
    ) -> None:
        """`lost_s`, `away_s`: how long to wait after a term was lost, or the store was."""
        self.vacant = asyncio.Event()
        self.current: Leader | None = None
        self._leader, self._me, self._lost_s, self._away_s = leader, me, lost_s, away_s
        self._broken_s = _BROKEN_S
        self._trouble = StoreTrouble("lead")

    async def run(self) -> None:
        """Until the agent leaves."""
        while True:
            await self.vacant.wait()
            self.vacant.clear()
            if (me := self._me()) is None:
                return
            if pause_s := await self._serve(*me):
                await asyncio.sleep(pause_s)
                self.vacant.set()

    async def _serve(self, me: LeaderRecord, lease: int) -> float:
        """After how many seconds to campaign again; 0: once there is no leader."""
        leader, pause_s = self._leader(), 0.0
        try:
            if await leader.campaign(me, lease):
                self.current = leader
                await leader.lead()
        except* LostLeadershipError:
            # Its own key may stand still: then it leads again, from what the store holds now.
            log.warning("leader.lost")
            pause_s = self._lost_s
        except* StoreError as group:
            refusals, others = group.split(is_refusal)
            if refusals is not None:
                self._trouble.say(refusals.exceptions[0])
            if others is not None:
                log.warning("leader.store_unavailable", extra={"error": repr(others.exceptions)})
            pause_s = self._away_s if refusals is None else _REFUSED_S
        except* Exception:
            # The boundary of a term: a bug in coordinating must end neither this agent's workers nor the next leader's.
            log.exception("leader.broken")
            await leader.resign()
            pause_s, self._broken_s = self._broken_s, min(2 * self._broken_s, _BROKEN_MAX_S)
        finally:
            self.current = None
        return pause_s
