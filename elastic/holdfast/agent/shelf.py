"""What an agent keeps in RAM of one script: the saves handed over on this machine, and copies of other machines'.

Rule: of this machine's own saves at most two are held, the one that is being made and the one that the script said is
to be kept; once a save is safe (`control.keeping`) all before it go.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from holdfast.agent.http import Handler
from holdfast.agent.news import News
from holdfast.agent.peer_tier import PeerTier
from holdfast.agent.peers import Peers
from holdfast.agent.roll import Roll
from holdfast.agent.room import Room
from holdfast.control.keeping import Holdings, holdings
from holdfast.errors import HoldfastError, ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperRecord
from holdfast.model.records import Version
from holdfast_checkpoint.agent_messages import Begin, Hand, Look, Named, Open, Seen, Sights
from holdfast_checkpoint.errors import CheckpointError, NoCheckpointError
from holdfast_checkpoint.placement import Placement
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.sparing import FETCHED, OWN, PEER

log = logging.getLogger(__name__)
_WHOLE_S = 10.0
_BLOBS_MAX = 13_000  # what a question between agents has room for
_PEERS_ERRORS = (CheckpointError, HoldfastError, OSError, aiohttp.ClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all shelves of an agent have in common. `changed`: one holds more, or less. `roll`: of which `refresh` has
    `see` called with what all agents say now. `room`: of all shelves."""

    node: NodeId
    peers: Peers
    copies: int
    bandwidth: int | None
    changed: Callable[[], None]
    roll: Roll
    room: Room


class Shelf:
    """Of one script, on the event loop."""

    def __init__(self, script: str, setting: Setting) -> None:
        self._script, self._node, self._copies = script, setting.node, setting.copies
        self._changed, self._roll, self._room = setting.changed, setting.roll, setting.room
        self.ram = RamTier(take=setting.room.take)
        self.tier = PeerTier(
            setting.node,
            self.ram,
            setting.peers,
            setting.bandwidth,
            on_copied=lambda: None,  # the records in the store tell it
            on_pulled=setting.changed,
            on_corrupt=lambda _: setting.changed(),
            prefix=f"/scripts/{script}",
        )
        self._blobs: dict[Version, int] = {}
        self._records: Sequence[KeeperRecord] = ()
        self._known = Holdings(saves={}, domains={})
        self._kept: Version | None = None
        self._news = News()
        self._is_slow = False  # a script waited for copies in vain, and none has been made since
        self._opening: dict[tuple[Version, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._readers = 0

    def routes(self) -> Mapping[str, Handler]:
        return self.tier.routes()

    async def run(self) -> None:
        """For ever: take copies for peers."""
        await self.tier.run()

    def close(self) -> None:
        self.tier.close()
        self.ram.close()

    def held(self) -> tuple[HeldSave, ...]:
        """For this node's record. What was fetched for somebody who loads goes again, and is not told."""
        own: dict[Version, dict[int, int]] = defaultdict(dict)
        lent: dict[Version, dict[int, int]] = defaultdict(dict)
        for copy in self.ram.copies():
            if copy.kind != FETCHED:
                into = own if copy.kind == OWN else lent
                into[Version(*copy.version)][copy.layer] = copy.digest.size
        return tuple(
            HeldSave(
                script=self._script,
                version=version,
                blobs=self._blobs[version],
                own=dict(sorted(own[version].items())),
                lent=dict(sorted(lent[version].items())),
            )
            for version in sorted({*own, *lent})
            if version in self._blobs
        )

    def see(self, records: Sequence[KeeperRecord]) -> None:
        """What all agents that live hold, this one included."""
        self._records = records
        self._known = holdings(records, self._script)
        for version, held in self._known.saves.items():
            self._blobs.setdefault(version, max(save.blobs for save in held.values()))
        self.tier.admit(record.agent for record in records)
        whole = self._known.whole()
        if whole:
            self.tier.follow(self._known.placed(whole[-1], self._copies))
        elif not self._known.saves:
            self.tier.follow(Placement())
        if (safe := self._known.newest_safe(self._copies)) is not None:
            self._is_slow = self._is_slow and safe != whole[-1]
            self._supersede(safe)
        self._news.tell()

    def begin(self, message: Begin) -> None:
        """Raises: ProtocolError: not a save that agents can keep."""
        if not 0 <= message.blobs < _BLOBS_MAX or message.step < 0 or message.generation < 0:
            raise ProtocolError(
                f"step {message.step} has {message.blobs} blobs; agents keep saves of up to {_BLOBS_MAX - 1}: "
                "make them larger (blob_bytes)"
            )
        version = Version(message.step, message.generation)
        self._room.tell_of(message.blobs + 1)
        self._blobs[version] = message.blobs
        # Where no agent knows of a whole save, what is left here of one is a part that nobody can load.
        spared = {version, Version(*message.kept)} if message.kept is not None else {version}
        self.ram.keep_only(lambda copy: copy.kind != OWN or Version(*copy.version) in spared)
        if message.kept is not None:
            self._keep(Version(*message.kept))
        self._changed()

    async def hand(self, message: Hand, path: str) -> None:
        """Raises:
        NoCheckpointError: the save was not begun, or is nowhere else and does not get whole.
        CheckpointError, OSError: the file is not what it says.
        """
        version = Version(message.step, message.generation)
        layer = self._layer(version, message.layer)
        origin = f"{OWN}:{message.rank}"
        self.ram.adopt(origin, layer, message.step, message.generation, path, message.digest)
        self.tier.changed()
        self._changed()
        if message.layer is None and message.is_only:
            await self._wait_for_whole(version)

    async def _wait_for_whole(self, version: Version) -> None:
        try:
            async with asyncio.timeout(_WHOLE_S):
                while version not in self._known.whole():
                    await self._news.wait()
        except TimeoutError:
            raise NoCheckpointError(
                f"the agents do not hold all of step {version.step}: {_WHOLE_S:.0f} s after its last blob some were not"
                " told of in the store; look at the agents' logs for what keeps them from it"
            ) from None

    async def look(self, message: Look) -> Sights:
        """Raises: StorageError: no room for what is about to be saved, if it is like what was saved last.

        Who is about to save hears of all that the records tell, since an agent that is slow to answer holds what it
        holds; who loads, of what can be loaded."""
        if message.copied_s:
            await self._wait_for_copies(message.copied_s)
            self._room.take(self._bytes_to_come())
        await self._roll.refresh()
        if not message.copied_s:
            await self._roll.call()
        known = self._known if message.copied_s else self._without_silent()
        saves = tuple(
            Seen(step=version.step, generation=version.generation, is_safe=known.is_safe(version, self._copies))
            for version in known.whole()
        )
        return Sights(node=str(self._node), saves=saves, is_copying=not self._is_slow)

    def _bytes_to_come(self) -> int:
        """By which a save like the largest here makes what is held grow, with copies for others; `begin` then drops all
        own saves but one."""
        held = self.held()
        own = [sum(save.own.values()) for save in held]
        both = [sum(save.own.values()) + sum(save.lent.values()) for save in held]
        return max(0, max(both, default=0) - (sum(own) - max(own, default=0)))

    async def _wait_for_copies(self, within_s: float) -> None:
        """Of the newest save. Not again if it was in vain, until copies are made: a peer that cannot take any must not
        hold up every save."""
        if self._is_slow:
            return
        try:
            async with asyncio.timeout(within_s):
                while self._is_copying():
                    await self._news.wait()
        except TimeoutError:
            self._is_slow = True
            log.warning("script.copies_late", extra={"script": self._script, "waited_s": within_s})

    async def open(self, message: Open) -> tuple[Copy, str]:
        """A copy, and whose it is. Raises: NoCheckpointError: nobody has a sound one."""
        version = Version(message.step, message.generation)
        layer = self._layer(version, message.layer)
        async with self._opening[version, layer]:
            if message.doubted:
                await self._look_through(version, layer)
            if copies := self.ram.find(layer, version.step, version.generation):
                return copies[0], str(self._node)
            return await self._fetch(version, layer)

    def forget(self, before_s: float) -> None:
        """All that was saved before that time; every agent does so."""
        self.ram.keep_only(lambda copy: copy.kind == FETCHED or Named(copy.generation, copy.step).made_s >= before_s)
        self._forget_versions(lambda version: Named(version.generation, version.step).made_s < before_s)
        self._changed()

    @property
    def is_idle(self) -> bool:
        """Nothing is here or expected, no agent holds anything of it, and nobody loads."""
        return not (self._blobs or self._known.saves or self._readers or self.ram.copies())

    def enter(self) -> None:
        """Somebody loads from here."""
        self._readers += 1

    def leave(self) -> None:
        """What was fetched for those who load goes with the last of them."""
        self._readers -= 1
        if self._readers == 0:
            self.ram.keep_only(lambda copy: copy.kind != FETCHED)

    def _layer(self, version: Version, layer: int | None) -> int:
        blobs = self._blobs.get(version)
        if blobs is None:
            raise NoCheckpointError(f"step {version.step}, generation {version.generation} is not known here")
        if layer is not None and not 0 <= layer < blobs:
            raise NoCheckpointError(f"step {version.step} has {blobs} blobs, and none is number {layer}")
        return blobs if layer is None else layer

    def _keep(self, kept: Version) -> None:
        if kept != self._kept:
            self._kept = kept
            self.tier.keep(kept)

    def _supersede(self, safe: Version) -> None:
        outdated = [c for c in self.ram.copies() if c.kind in (OWN, PEER) and Version(*c.version).age < safe.age]
        for copy in outdated:
            self.ram.drop(copy)
        self._forget_versions(lambda version: version.age < safe.age)
        self._keep(safe)
        if outdated:
            log.info("script.superseded", extra={"script": self._script, "step": safe.step, "copies": len(outdated)})
            self._changed()

    def _forget_versions(self, is_over: Callable[[Version], bool]) -> None:
        for version in [version for version in self._blobs if is_over(version)]:
            del self._blobs[version]
            for key in [key for key in self._opening if key[0] == version]:
                del self._opening[key]

    def _is_copying(self) -> bool:
        whole = self._known.whole()
        return bool(whole) and not self._known.is_safe(whole[-1], self._copies)

    def _without_silent(self) -> Holdings:
        return holdings(self._roll.answering(self._records), self._script)

    async def _look_through(self, version: Version, layer: int) -> None:
        for copy in self.ram.find(layer, version.step, version.generation):
            try:
                await asyncio.to_thread(self.ram.verify, copy)
            except (CheckpointError, OSError) as error:
                log.error("copy.corrupt", extra={"script": self._script, "origin": copy.origin, "error": str(error)})
                self.ram.drop(copy)
                self._changed()

    async def _fetch(self, version: Version, layer: int) -> tuple[Copy, str]:
        tried = []
        for node in self._without_silent().holders(version, layer):
            if node == self._node:
                continue
            try:
                return await self.tier.pull(node, layer, version, None), str(node)
            except _PEERS_ERRORS as error:
                tried.append(f"{node}: {error}")
                log.warning("script.missed", extra={"script": self._script, "layer": layer, "error": tried[-1]})
        why = f" ({'; '.join(tried)})" if tried else ""
        raise NoCheckpointError(f"no agent that lives gives blob {layer} of step {version.step}{why}")
