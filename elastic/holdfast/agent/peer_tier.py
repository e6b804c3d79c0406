"""Copies between nodes: which ones this node gives and takes follows from the generation's start; and single blobs
that a restore wants."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from aiohttp import web

from holdfast.agent.arrivals import Arrivals
from holdfast.agent.blob_client import BlobClient, PeerAddress
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.http import Handler
from holdfast.agent.offers import COPIES, copy_target, digest_json, read_digest, read_fetched_for
from holdfast.agent.offers import Version as Named
from holdfast.agent.peers import Peers
from holdfast.agent.pulling import Puller
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.records import AgentRef, GenerationRecord, StartRecord, Version
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError
from holdfast_checkpoint.placement import Placement, peer_copies
from holdfast_checkpoint.ram import Copy, RamTier
from holdfast_checkpoint.sparing import FETCHED, Spare

log = logging.getLogger(__name__)
# Somebody waits for what is restored: a peer that does not answer so soon is passed over for the next one.
_ASK_S = 5.0
_AGAIN_S = 0.5
# For so long a question after what is on its way is held; above that, who asks takes the other for gone.
_HELD_S = 10.0


class PeerTier:
    """One an agent."""

    def __init__(
        self,
        node: NodeId,
        ram: RamTier,
        peers: Peers,
        bandwidth_bytes: int | None,
        *,
        on_copied: Callable[[], None],
        on_pulled: Callable[[], None],
        on_corrupt: Callable[[Copy], None],
        prefix: str = "",
    ) -> None:
        """`on_copied`: a peer holds more of what is here. `on_pulled`: this node holds more of what is elsewhere.
        `prefix`: of the paths at every agent."""
        self._node, self._ram, self._peers, self._prefix = node, ram, peers, prefix
        self._serving = Serving(
            ram,
            ServingLimits(bytes_s=bandwidth_bytes),
            lambda *_: on_copied(),
            on_corrupt,
        )
        self._urgent = BlobClient(peers, urgent=True)
        self._by_the_way = BlobClient(peers)
        self._agents: Mapping[str, AgentRef] = {}
        self._puller = Puller(node, ram, peers, self._by_the_way, self._address_of, lambda _: on_pulled())
        self._placement = Placement()
        self.arrivals = Arrivals()

    def routes(self) -> Mapping[str, Handler]:
        """For the agent's port, for peers alone."""
        return {**self._serving.routes(), COPIES: self._tell_digest}

    async def run(self) -> None:
        """For ever."""
        await self._puller.run()

    def close(self) -> None:
        self._urgent.close()
        self._by_the_way.close()

    def place(
        self, generation: GenerationRecord, start: StartRecord, layer_bytes: Sequence[int], copies: int
    ) -> Placement:
        """Give and take what this start calls for. Where nobody trains what is there stays, and nothing moves."""
        self.admit(generation.agents)
        placement, plan = Placement(), start.plan
        if plan is not None:
            # Only those whose loss begins a generation, and from what all agents know alike: no history of one's own.
            domains = {str(agent.node): agent.domain for agent in generation.agents if agent.node in plan.nodes}
            placement = peer_copies(plan.nodes_by_layer, domains, layer_bytes, copies)
        self.follow(placement)
        if start.kept is not None:
            spare = None
            if start.spare is not None:
                spare = Spare(version=_named(start.spare), generation=start.generation)
            self.keep(start.kept, spare)
        return placement

    def admit(self, agents: Iterable[AgentRef]) -> None:
        """From now on these give to each other and take. What others said that they hold is forgotten."""
        before = {(agent.node, agent.incarnation) for agent in self._agents.values()}
        self._agents = {agent.node: agent for agent in agents}
        self._serving.forget(before - {(agent.node, agent.incarnation) for agent in self._agents.values()})
        if self._node in self._agents:
            self._puller.incarnation = self._agents[self._node].incarnation

    def follow(self, placement: Placement) -> None:
        """Take what this node is to hold for others."""
        self._placement = placement
        self._puller.follow(placement.pulled_by(self._node))

    def keep(self, kept: Version, spare: Spare | None = None) -> None:
        """The version that nobody gives up; and another one, until this is known to be sound."""
        self._serving.keep(_named(kept))
        self._puller.keep(_named(kept), spare)

    def changed(self) -> None:
        """This node holds other snapshots than before."""
        self._serving.changed()

    def is_copied(self, version: Version, layers: Collection[int]) -> bool:
        """Whether all who are to hold copies of these layers hold them."""
        return all(
            target in self._serving.holders(_named(version), layer)
            for target, wanted in self._placement.pulled_from(self._node).items()
            for layer in wanted
            if layer in layers
        )

    async def pull(self, node: NodeId, layer: int, version: Version, fetched_for: int | None) -> Copy:
        """One blob, verified, that a restore wants. `fetched_for`: the generation for whose start `node` fetches it
        itself, and is waited for.

        Raises:
            CheckpointError, ProtocolError, OSError, aiohttp.ClientError: that node does not give it.
        """
        peer = self._address_of(node)
        if peer is None:
            raise ConnectionError(f"{node} is no member of this generation")
        digest = await self._digest(peer, layer, version, fetched_for)
        incoming = self._ram.new_buffer(layer, version.step, version.generation, digest.size, FETCHED)
        try:
            await asyncio.to_thread(incoming.reserve)
            try:
                await self._pull_in_turn(peer, layer, version, digest, incoming.memory)
            except CorruptError as corrupt:
                log.error("copy.corrupt", extra={"source": node, "layer": layer, "error": str(corrupt)})
                try:  # on the way, perhaps; else the peer finds its copy corrupt, and forgets it
                    await self._urgent.pull(peer, layer, _named(version), digest, incoming.memory, doubted=True)
                except NoCheckpointError as gone:
                    raise corrupt from gone
            return incoming.commit(digest)
        except BaseException:
            incoming.discard()
            raise

    async def _pull_in_turn(
        self, peer: PeerAddress, layer: int, version: Version, digest: Digest, memory: memoryview
    ) -> None:
        """A peer that sends to many others says so, and is asked again as long as it answers."""
        while True:
            try:
                return await self._urgent.pull(peer, layer, _named(version), digest, memory)
            except StorageBusyError:
                await asyncio.sleep(_AGAIN_S)

    async def _digest(self, peer: PeerAddress, layer: int, version: Version, fetched_for: int | None) -> Digest:
        target = peer.prefix + copy_target(layer, _named(version), fetched_for)
        within_s = _ASK_S + (_HELD_S if fetched_for is not None else 0.0)
        while True:
            async with asyncio.timeout(within_s):
                told = read_digest(await self._peers.poll(peer.host, peer.port, target, within_s))
            if told is not None:
                return told

    async def _tell_digest(self, request: web.Request) -> web.StreamResponse:
        layer, step, generation = (int(request.match_info[name]) for name in ("layer", "step", "generation"))
        try:
            wanted_by = read_fetched_for(request.query)
        except ProtocolError as error:
            return web.json_response({"error": str(error)}, status=400)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HELD_S):
                while self._may_come(layer, wanted_by):
                    await self.arrivals.wait()
        copies = self._ram.find(layer, step, generation)
        if not copies and not self._may_come(layer, wanted_by):
            return web.json_response({"error": "not in RAM here"}, status=404)
        return web.json_response(digest_json(copies[0].digest if copies else None))

    def _may_come(self, layer: int, wanted_by: int | None) -> bool:
        return wanted_by is not None and self.arrivals.may_come(wanted_by, layer)

    def _address_of(self, node: str) -> PeerAddress | None:
        agent = self._agents.get(node)
        if agent is None:
            return None
        return PeerAddress(node=node, host=agent.host, port=agent.port, prefix=self._prefix)


def _named(version: Version) -> Named:
    return Named(version.step, version.generation)
