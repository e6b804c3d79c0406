"""What an agent does about its node's own entry under drains: it writes one when it is told to end, and an earlier
agent's is not meant for it."""

import logging

from holdfast.control.member import Identity
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import Compare, Delete, KeyValue, Put, Store

log = logging.getLogger(__name__)
# What a node writes into its own drain.
SELF_DRAIN = "SIGTERM"


def own_drain(identity: Identity, grace_s: float) -> DrainRecord:
    """What an agent writes when it is told to end. Not meant for one that takes its name later."""
    return DrainRecord(node=identity.node, grace_s=grace_s, reason=SELF_DRAIN, incarnation=identity.incarnation)


async def ask_to_drain(store: Store, keys: Keys, record: DrainRecord) -> bool:
    """Write `record`, unless the node is to leave as soon already, or has been let go; whether it was written."""
    key = keys.drain(record.node)
    while True:
        held = await store.get(key)
        if held is not None:
            known = _read(held)
            if known is not None and (known.released or known.grace_s <= record.grace_s):
                return False
        same = Compare(key=key, mod_revision=held.mod_revision if held is not None else 0)
        if (await store.transact([same], [Put(key=key, value=encode(record))])).succeeded:
            return True


async def forget_drain(store: Store, keys: Keys, node: NodeId) -> None:
    """A drain that was honoured, or meant for an earlier agent by name, was not meant for one that begins now."""
    held = await store.get(keys.drain(node))
    record = _read(held) if held is not None else None
    if held is None or record is None or not (record.released or record.incarnation):
        return
    log.info("drain.forgotten", extra={"reason": record.reason, "released": record.released})
    await store.transact([Compare(key=held.key, mod_revision=held.mod_revision)], [Delete(key=held.key)])


def time_left_s(drain: tuple[DrainRecord, float] | None, most_s: float, now_s: float) -> float:
    """How long a node that leaves may take to end what it has begun: up to its deadline, and at most `most_s`."""
    return most_s if drain is None else max(0.0, min(most_s, drain[1] - now_s))


def _read(held: KeyValue) -> DrainRecord | None:
    try:
        return decode(DrainRecord, held.value)
    except ProtocolError as error:
        log.error("drain.malformed", extra={"key": held.key, "error": str(error)})
        return None
