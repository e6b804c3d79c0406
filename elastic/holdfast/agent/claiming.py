"""A node's name belongs to one live agent: it is claimed before anything is said under it.

The claim hangs on the agent's lease. An agent that finds its name claimed asks who holds it: one that answers keeps
it, one that is dead is evicted at once, and of one that is silent the lease decides.
"""

import asyncio
import logging

from holdfast.agent.peers import Peers
from holdfast.agent.probing import Verdict, probe
from holdfast.errors import ProtocolError, StoreUnavailableError, UserError
from holdfast.model.records import ClaimRecord, DrainRecord, Keys
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Put, Store

log = logging.getLogger(__name__)
# What a node writes into its own drain.
SELF_DRAIN = "SIGTERM"
_POLL_S = 0.1
_PROBE_S = 1.0
_TTLS_WAITED = 3


async def claim_node(store: Store, keys: Keys, claim: ClaimRecord, lease: int, ttl_s: float, peers: Peers) -> None:
    """Make the name this agent's own, and forget how an earlier agent of that name left.

    Raises:
        UserError: another agent of that name lives.
        LeaseExpiredError: `lease` ran out while waiting.
    """
    loop = asyncio.get_running_loop()
    given_up_s = loop.time() + _TTLS_WAITED * ttl_s
    while True:
        try:
            holder = await _try(store, keys, claim, lease)
            if holder is None:
                await _forget_drain(store, keys, claim)
                return
            await store.keep_alive(lease)
            await _ask(store, keys, claim, holder, peers)
        except StoreUnavailableError:
            log.warning("claim.store_unavailable")
            given_up_s = loop.time() + _TTLS_WAITED * ttl_s  # a lease lives on while the store is away
        if loop.time() >= given_up_s:
            raise UserError(f"--node {claim.node}: another agent has that name and renews its lease; use another name")
        await asyncio.sleep(min(_POLL_S, ttl_s / 10))


async def _try(store: Store, keys: Keys, claim: ClaimRecord, lease: int) -> KeyValue | None:
    """None if the name is this agent's now, else who has it."""
    key = keys.claim(claim.node)
    mine = Put(key=key, value=encode(claim), lease=lease)
    while True:
        if (await store.transact([Compare(key=key, exists=False)], [mine])).succeeded:
            log.info("node.claimed", extra={"incarnation": claim.incarnation})
            return None
        held = await store.get(key)
        if held is not None:
            # A write whose answer was lost may have been done.
            return held if held.lease != lease else None


async def _ask(store: Store, keys: Keys, claim: ClaimRecord, held: KeyValue, peers: Peers) -> None:
    """Raises: UserError: the holder answers."""
    try:
        other = decode(ClaimRecord, held.value)
    except ProtocolError as error:
        log.error("claim.malformed", extra={"key": held.key, "error": str(error)})
        if held.lease == 0:  # no agent wrote it, and nobody will take it away
            await store.transact([Compare(key=held.key, mod_revision=held.mod_revision)], [Delete(key=held.key)])
        return
    if (other.host, other.port, other.pid) == (claim.host, claim.port, claim.pid):
        return  # this agent's own, under a lease that has run out
    verdict, _ = await probe(peers, other.host, other.port, other.incarnation, _PROBE_S)
    if verdict is Verdict.ALIVE:
        raise UserError(
            f"--node {claim.node}: an agent of that name lives at {other.host} port {other.port} (pid {other.pid}); "
            "stop it, or use another name"
        )
    if verdict is Verdict.REFUSED:
        log.warning("claim.evict", extra={"node": claim.node, "incarnation": other.incarnation})
        await store.revoke(held.lease)


async def _forget_drain(store: Store, keys: Keys, claim: ClaimRecord) -> None:
    """A drain that was honoured, or that the earlier agent wrote for itself, was not meant for this one."""
    held = await store.get(keys.drain(claim.node))
    if held is None:
        return
    try:
        record = decode(DrainRecord, held.value)
    except ProtocolError as error:
        log.error("drain.malformed", extra={"key": held.key, "error": str(error)})
        return
    if record.released or record.reason == SELF_DRAIN:
        log.info("drain.forgotten", extra={"reason": record.reason, "released": record.released})
        await store.transact(
            [Compare(key=held.key, mod_revision=held.mod_revision)],
            [Delete(key=held.key)],
        )
