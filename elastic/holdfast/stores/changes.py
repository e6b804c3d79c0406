"""Following a prefix of the store from afar: what stands there, then what changes, whatever becomes of the store."""

import asyncio
import logging
from collections.abc import AsyncIterator

from holdfast.errors import CompactedError, StoreUnavailableError
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
_PAUSE_S = 0.5


async def changes_of(store: Store, prefix: str) -> AsyncIterator[tuple[tuple[str, bytes | None], ...]]:
    """All that stands under `prefix` at once, oldest first, then the changes of each revision; None for a key that is
    gone.

    For ever: it waits for a store that is away, and where history was dropped meanwhile it tells again what stands,
    and what is gone.
    """
    known: set[str] = set()
    while True:
        try:
            snapshot = await store.get_prefix(prefix)
            standing = {kv.key for kv in snapshot.kvs}
            gone = tuple((key, None) for key in sorted(known - standing))
            known = standing
            oldest_first = sorted(snapshot.kvs, key=lambda kv: kv.mod_revision)
            yield (*gone, *((kv.key, kv.value) for kv in oldest_first))
            async for changes in store.watch(prefix, snapshot.revision + 1):
                for change in changes:
                    (known.add if change.kind == "put" else known.discard)(change.kv.key)
                yield tuple((c.kv.key, c.kv.value if c.kind == "put" else None) for c in changes)
        except CompactedError:
            log.info("watch.read_again")
        except StoreUnavailableError as error:
            log.warning("watch.store_unavailable", extra={"error": str(error)})
            await asyncio.sleep(_PAUSE_S)
