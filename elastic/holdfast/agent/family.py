"""IPv4 or IPv6: the workers of a job connect to each other only within one of them."""

import ipaddress
import logging

from holdfast.errors import ProtocolError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import NodeRecord
from holdfast.model.wire import decode
from holdfast.ports.store import Store

log = logging.getLogger(__name__)


async def check_family(store: Store, keys: Keys, host: str) -> None:
    """Of addresses; what a name stands for is known to its machine.

    Raises:
        UserError: the job's nodes have addresses of the other family.
        StoreUnavailableError: the store does not answer.
    """
    ours = _family(host)
    for kv in (await store.get_prefix(keys.node(NodeId("")))).kvs:
        try:
            other = decode(NodeRecord, kv.value)
        except ProtocolError as error:
            log.error("node.malformed", extra={"key": kv.key, "error": str(error)})
            continue
        theirs = _family(other.host)
        if ours and theirs and ours != theirs:
            raise UserError(
                f"--address {host}: is of IPv{ours}, but {other.node} is at {other.host}; "
                f"give this machine's address of IPv{theirs}"
            )


def _family(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
