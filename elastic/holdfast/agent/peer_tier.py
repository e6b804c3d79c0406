"""Copies between nodes: which ones this node gives and takes follows from the generation's start; and single blobs
that a restore wants."""

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict

from aiohttp import web

from holdfast.agent.blob_client import BlobClient, PeerAddress
from holdfast.agent.blob_serving import Serving, ServingLimits
from holdfast.agent.http import Handler
from holdfast.agent.offers import Version as Named
from holdfast.agent.offers import read_digest
from holdfast.agent.peers import Peers
from holdfast.agent.pulling import Puller
from holdfast.model.ids import NodeId
from holdfast.model.records import AgentRef, GenerationRecord, StartRecord, Version
from holdfast_checkpoint.digest import Digest
from holdfast_checkpoint.errors import CorruptError, NoCheckpointError, StorageBusyError
from holdfast_checkpoint.placement import Placement, peer_copies
from holdfast_checkpoint.ram import FETCHED, Copy, RamTier

log = logging.getLogger(__name__)
COPIES = "/copies/{layer:[0-9]{1,9}}/{step:[0-9]{1,18}}/{generation:[0-9]{1,18}}"
# Somebody waits for what is restored: a peer that does not answer so soon is passed over for the next one.
_ASK_S = 5.0
_AGAIN_S = 0.5


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
    ) -> None:
        """`on_copied`: a peer holds more of what is here. `on_pulled`: this node holds more of what is elsewhere."""
        self._node, self._ram, self._peers = node, ram, peers
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
        gone = self._agents.keys() - {agent.node for agent in generation.agents}
        self._serving.forget([NodeId(node) for node in gone])
        self._agents = {agent.node: agent for agent in generation.agents}
        plan = start.plan
        if plan is None:
            self._placement = Placement()
        else:
            holders = {
                layer: [str(plan.slots[rank].node) for rank in plan.holders(layer)] for layer in range(len(layer_bytes))
            }
            # Only those whose loss begins a generation, and from what all agents know alike: no history of one's own.
            domains = {str(agent.node): agent.domain for agent in generation.agents if agent.node in plan.nodes}
            self._placement = peer_copies(holders, domains, layer_bytes, copies)
        self._puller.follow(self._placement.pulled_by(self._node))
        if start.kept is not None:
            self.keep(start.kept)
        return self._placement

    def keep(self, kept: Version) -> None:
        """The version that nobody gives up."""
        self._serving.keep(_named(kept))
        self._puller.keep(_named(kept))

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

    async def pull(self, node: NodeId, layer: int, version: Version) -> Copy:
        """One blob, verified, that a restore wants.

        Raises:
            CheckpointError, ProtocolError, OSError, aiohttp.ClientError: that node does not give it.
        """
        peer = self._address_of(node)
        if peer is None:
            raise ConnectionError(f"{node} is no member of this generation")
        async with asyncio.timeout(_ASK_S):
            path = f"/copies/{layer}/{version.step}/{version.generation}"
            digest = read_digest(await self._peers.poll(peer.host, peer.port, path, _ASK_S))
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

    async def _tell_digest(self, request: web.Request) -> web.StreamResponse:
        layer, step, generation = (int(request.match_info[name]) for name in ("layer", "step", "generation"))
        copies = self._ram.find(layer, step, generation)
        if not copies:
            return web.json_response({"error": "not in RAM here"}, status=404)
        return web.Response(body=json.dumps(asdict(copies[0].digest)).encode(), content_type="application/json")

    def _address_of(self, node: str) -> PeerAddress | None:
        agent = self._agents.get(node)
        return PeerAddress(node=node, host=agent.host, port=agent.port) if agent is not None else None


def _named(version: Version) -> Named:
    return Named(version.step, version.generation)
