"""A node's name belongs to one live agent: it is claimed before anything is said under it.

The claim hangs on the agent's lease. An agent that finds its name claimed asks who holds it: one that answers keeps
it, one that is dead is evicted at once, and of one that is silent the lease decides.
"""

import asyncio
import logging

from holdfast.agent.draining import forget_drain
from holdfast.agent.following import StoreTrouble, is_refusal
from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.errors import LeaseExpiredError, NodeRefusedError, ProtocolError, StoreError
from holdfast.model.claim import ClaimRecord
from holdfast.model.keys import Keys
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Put, Store

log = logging.getLogger(__name__)
_POLL_S = 0.1
_PROBE_S = 1.0
_TTLS_WAITED = 3
_AWAY_PAUSE_S = 0.5


class NodeClaim:
    """One an agent process: what it claimed before is its own, whatever process has its number elsewhere."""

    def __init__(self, store: Store, keys: Keys, peers: Peers, ttl_s: float) -> None:
        self._store, self._keys, self._peers, self._ttl_s = store, keys, peers, ttl_s
        self._own: set[str] = set()  # incarnations
        self._is_held = False  # it was, at least once

    async def take(self, claim: ClaimRecord, lease: int) -> None:
        """Make the name this agent's own; the first time, forget how an earlier agent of that name left.

        Raises:
            NodeRefusedError: another agent of that name lives.
            LeaseExpiredError: `lease` ran out while waiting.
            StoreError: the store refuses the first claim.
        """
        loop, trouble = asyncio.get_running_loop(), StoreTrouble("claim")
        given_up_s = loop.time() + _TTLS_WAITED * self._ttl_s
        self._own.add(claim.incarnation)
        while True:
            pause_s = min(_POLL_S, self._ttl_s / 10)
            try:
                holder = await self._try(claim, lease)
                if holder is None:
                    if not self._is_held:
                        await forget_drain(self._store, self._keys, claim.node)
                    self._is_held = True
                    return
                await self._store.keep_alive(lease)
                await self._ask(claim, holder)
            except LeaseExpiredError:
                raise
            except StoreError as error:
                if is_refusal(error) and not self._is_held:
                    raise
                trouble.say(error)
                given_up_s = loop.time() + _TTLS_WAITED * self._ttl_s  # a lease lives on while the store is away
                pause_s = _AWAY_PAUSE_S
            if loop.time() >= given_up_s:
                raise NodeRefusedError(
                    f"--node {claim.node}: another agent has that name and renews its lease; use another name"
                )
            await asyncio.sleep(pause_s)

    async def _try(self, claim: ClaimRecord, lease: int) -> KeyValue | None:
        """None if the name is this agent's now, else who has it."""
        key = self._keys.claim(claim.node)
        mine = Put(key=key, value=encode(claim), lease=lease)
        while True:
            if (await self._store.transact([Compare(key=key, exists=False)], [mine])).succeeded:
                log.info("node.claimed", extra={"incarnation": claim.incarnation})
                return None
            held = await self._store.get(key)
            if held is not None:
                # A write whose answer was lost may have been done.
                return held if held.lease != lease else None

    async def _ask(self, claim: ClaimRecord, held: KeyValue) -> None:
        """Raises: NodeRefusedError: the holder answers."""
        store = self._store
        try:
            other = decode(ClaimRecord, held.value)
        except ProtocolError as error:
            log.error("claim.malformed", extra={"key": held.key, "error": str(error)})
            if held.lease == 0:  # no agent wrote it, and nobody will take it away
                await store.transact([Compare(key=held.key, mod_revision=held.mod_revision)], [Delete(key=held.key)])
            return
        if other.incarnation in self._own:
            return  # under a lease that has run out
        verdict, _ = await probe(self._peers, other.host, other.port, other.incarnation, _PROBE_S)
        if verdict is Verdict.ALIVE:
            raise NodeRefusedError(
                f"--node {claim.node}: an agent of that name lives at {other.host} port {other.port} "
                f"(pid {other.pid}); stop it, or use another name"
            )
        if verdict is Verdict.REFUSED:
            log.warning("claim.evict", extra={"node": claim.node, "incarnation": other.incarnation})
            await store.revoke(held.lease)
