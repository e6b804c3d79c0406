"""Follows other nodes' snapshots: each new version of the layers that this node keeps copies of, pulled as it appears.

Invariant: the kept version, as this agent and as the source knows it, is never given up for a newer one, nor the spare
one before a generation has shown that it can do without; and of a layer there is at most one version besides these. A
source learns what was pulled from the next question it is asked.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import aiohttp

from holdfast.agent.blob_client import BlobClient, PeerAddress
from holdfast.agent.offers import Offer, Question, Version
from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CheckpointError, CorruptError
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.sparing import PEER, Spare, outlives_arrival, outlives_change, said_to_hold, spared_at_arrival

log = logging.getLogger(__name__)
_PULL_ERRORS = (CheckpointError, ProtocolError, aiohttp.ClientError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`poll_s`: above what sources hold a question for. Pauses after failures double from the first to the longest."""

    poll_s: float = 40.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0

    def pause_s(self, failures: int) -> float:
        """Spread, so that those who lost the same source do not come back as one."""
        longest_s: float = min(self.longest_pause_s, self.first_pause_s * 2 ** min(failures, 20))
        return random.uniform(0.5, 1.0) * longest_s


class Puller:
    """One an agent, on its event loop; keeps copies in `ram` under the origin "peer:<source>"."""

    def __init__(
        self,
        node: NodeId,
        ram: RamTier,
        peers: Peers,
        client: BlobClient,
        address_of: Callable[[str], PeerAddress | None],
        on_pulled: Callable[[Copy], None] = lambda copy: None,
        patience: Patience | None = None,
    ) -> None:
        """`address_of` is asked at each attempt; None: not known now. `on_pulled` is told of each new copy here."""
        self._node, self._ram, self._peers, self._client = node, ram, peers, client
        self._address_of, self._on_pulled = address_of, on_pulled
        self._patience = patience if patience is not None else Patience()
        self.incarnation = ""  # this agent's, as it is told with each question
        self._wanted: Mapping[str, frozenset[int]] = {}
        self._kept: Version | None = None
        self._spare: Spare | None = None
        self._changed = asyncio.Event()

    def follow(self, sources: Mapping[str, Collection[int]]) -> None:
        """From now on these layers of these nodes, as `Placement.pulled_by` says. What is under way and still wanted
        goes on."""
        self._wanted = {source: frozenset(layers) for source, layers in sources.items() if layers}
        self._changed.set()

    def keep(self, kept: Version, spare: Spare | None = None) -> None:
        """The version that must not be given up, as votes or the generation's start say; and another one, until what
        the generation started from is known to be sound."""
        self._kept, self._spare = kept, spare
        self._forget_unwanted(kept)

    async def run(self) -> None:
        """For ever, until cancelled."""
        running: dict[tuple[str, frozenset[int]], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                wanted = set(self._wanted.items())
                for following in sorted(running.keys() - wanted, key=lambda item: item[0]):
                    running.pop(following).cancel()
                for source, layers in sorted(wanted - running.keys(), key=lambda item: item[0]):
                    running[source, layers] = tasks.create_task(self._follow(source, layers), name=f"pull-{source}")
                await self._changed.wait()

    async def _follow(self, source: str, layers: frozenset[int]) -> None:
        """One source, for ever. Others are followed meanwhile, however slow this one is."""
        failures, told, doubted = 0, None, set[tuple[int, Version]]()
        while True:
            peer = self._address_of(source)
            try:
                if peer is not None:
                    told = await self._ask(peer, layers, told)
                    await self._pull_all(peer, told, doubted)
                    failures = 0
                    continue
            except _PULL_ERRORS as error:
                level = logging.ERROR if isinstance(error, CorruptError) else logging.INFO
                extra = {"source": source, "failures": failures + 1, "error": str(error) or repr(error)}
                log.log(level, "copy.corrupt" if isinstance(error, CorruptError) else "copy.failed", extra=extra)
            await asyncio.sleep(self._patience.pause_s(failures))
            failures += 1

    async def _ask(self, peer: PeerAddress, layers: frozenset[int], told: Offer | None) -> Offer:
        """Returns once the source has something else than it `told`, or after a while."""
        question = Question(
            node=self._node,
            incarnation=self.incarnation,
            layers=layers,
            after=self._held(layers, told.version if told is not None else None),
            kept=told.kept if told is not None else None,
        )
        target = peer.prefix + question.target
        return Offer.read(await self._peers.poll(peer.host, peer.port, target, self._patience.poll_s))

    def _held(self, layers: frozenset[int], told: Version | None) -> Version | None:
        held = said_to_hold(self._ram.versions((PEER,)), layers, told)
        return Version(*held) if held is not None else None

    async def _pull_all(self, peer: PeerAddress, offer: Offer, doubted: set[tuple[int, Version]]) -> None:
        """`doubted`: what was corrupt when it came."""
        if offer.kept is not None:
            self._forget_unwanted(offer.kept)
        if offer.version is None:
            return
        for layer in sorted(offer.digests):
            if layer in self._ram.versions((PEER,)).get(offer.version, ()):
                continue
            self._make_room(layer, offer.version, offer.kept)
            wanted = (layer, offer.version)
            try:
                copy = await self._pull(peer, layer, offer.version, offer.digests[layer], wanted in doubted)
            except CorruptError:
                doubted.add(wanted)
                raise
            doubted.discard(wanted)
            self._on_pulled(copy)

    async def _pull(self, peer: PeerAddress, layer: int, version: Version, digest: Digest, doubted: bool) -> Copy:
        incoming = self._ram.new_buffer(layer, *version, digest.size, f"{PEER}:{peer.node}")
        try:
            await asyncio.to_thread(incoming.reserve)
            await self._client.pull(peer, layer, version, digest, incoming.memory, doubted=doubted)
            return incoming.commit(digest)
        except BaseException:
            incoming.discard()
            raise

    def _make_room(self, layer: int, version: Version, told: Version | None) -> None:
        here = [held for held, layers in self._ram.versions().items() if layer in layers and held != version]
        self._spare = self._spare.after(version) if self._spare is not None else None
        stay = spared_at_arrival(here, (self._kept, told), self._spare)
        self._ram.keep_only(lambda copy: outlives_arrival(copy, layer, version, stay))

    def _forget_unwanted(self, kept: Version) -> None:
        wanted = frozenset[int]().union(*self._wanted.values())
        self._ram.keep_only(lambda copy: outlives_change(copy, wanted, kept, self._spare))
