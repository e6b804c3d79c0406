"""One connection to a rendezvous, for all jobs that share it: opened with what the Secrets hold, opened anew when
that changes, and asked from time to time whether it still answers.

Rule: after it was away it counts for a job only once all of the job was read again.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from holdfast.errors import StoreError, UserError
from holdfast.ports.store import Store
from holdfast.stores.address import open_store
from holdfast_operator.handlers.client import Cluster
from holdfast_operator.handlers.errors import ClusterError, ClusterUnavailableError
from holdfast_operator.handlers.following import Follower
from holdfast_operator.handlers.store_access import StorePlace, StoreSecrets, access_from, read_secrets
from holdfast_operator.handlers.tasks import Tasks, stop

log = logging.getLogger(__name__)
_CALL_S = 3.0
_PING_S = 5.0
# Secrets are read again this often, and at once where the store refuses.
_ROTATED_S = 300.0
_AGAIN_S = 5.0
# Below no job's prefix; nothing is ever written there.
_NOWHERE = "holdfast-operator-ping"


class Connection:
    """`told()` is called when `trouble` changes: why the rendezvous cannot be used, in words; "": it can."""

    def __init__(self, cluster: Cluster, place: StorePlace, tasks: Tasks, told: Callable[[], None]) -> None:
        self._cluster, self._place, self._tasks, self._told = cluster, place, tasks, told
        self.trouble = ""
        self.store: Store | None = None
        self._answers = False  # it did when it was asked last
        self._followers: dict[Follower, asyncio.Task[None] | None] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-operator-"))
        self._task = tasks.begin(self._run(), name=f"store {place.address}")

    @property
    def is_used(self) -> bool:
        return bool(self._followers)

    def attach(self, follower: Follower) -> None:
        is_open = self.store is not None and self._answers
        self._followers[follower] = self._begin(follower) if is_open else None

    def detach(self, follower: Follower) -> None:
        task = self._followers.pop(follower)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        await stop(self._task)
        await asyncio.to_thread(shutil.rmtree, self._folder, True)

    async def _run(self) -> None:
        while True:
            try:
                await self._use()
                continue
            except ClusterUnavailableError as error:
                # That says nothing about the rendezvous: who asks goes on waiting.
                self._unread(error)
            except (UserError, ClusterError) as error:
                self._tell(str(error))
            except Exception as error:  # a full disk, or a bug: other jobs have other rendezvous
                log.exception("store.broken", extra={"store": str(self._place.address)})
                self._tell(f"the rendezvous cannot be used: {error!r}")
            await asyncio.sleep(_AGAIN_S)

    async def _use(self) -> None:
        """Returns when what opens the store has changed."""
        secrets = await read_secrets(self._cluster, self._place)
        store = open_store(self._place.address, access_from(secrets, self._folder), timeout_s=_CALL_S)
        self.store = store
        try:
            await self._watch_over(store, secrets)
        finally:
            await self._end(store)

    async def _watch_over(self, store: Store, secrets: StoreSecrets) -> None:
        """Returns when what opens the store has changed."""
        loop = asyncio.get_running_loop()
        read_s = loop.time()
        while True:
            trouble = ""
            try:
                await store.get(_NOWHERE)
            except StoreError as error:
                trouble = str(error)
            if not trouble and not self._answers:
                await self._stop_followers()
                self._followers = {follower: self._begin(follower) for follower in self._followers}
            self._answers = not trouble
            self._tell(trouble)
            if trouble or loop.time() > read_s + _ROTATED_S:
                read_s = loop.time()
                if await self._have_changed(secrets):
                    log.info("store.secrets_changed", extra={"store": str(self._place.address)})
                    return
            await asyncio.sleep(_PING_S)

    async def _have_changed(self, secrets: StoreSecrets) -> bool:
        try:
            return await read_secrets(self._cluster, self._place) != secrets
        except (UserError, ClusterError) as error:
            # What was read before may well be good still.
            self._unread(error)
            return False

    def _unread(self, error: Exception) -> None:
        log.warning("store.secrets_unread", extra={"store": str(self._place.address), "error": str(error)})

    async def _end(self, store: Store) -> None:
        self.store, self._answers = None, False
        await self._stop_followers()
        await store.close()

    async def _stop_followers(self) -> None:
        """What they hold is old from now on; those that come meanwhile begin with the others."""
        for follower in self._followers:
            follower.is_current = False
        await asyncio.gather(*(stop(task) for task in self._followers.values()))

    def _begin(self, follower: Follower) -> asyncio.Task[None]:
        assert self.store is not None
        follower.is_current = False
        return self._tasks.begin(follower.run(self.store), name=f"following {follower.keys.job}")

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            level = logging.WARNING if trouble else logging.INFO
            log.log(level, "store.trouble", extra={"store": str(self._place.address), "trouble": trouble})
            self.trouble = trouble
            self._told()
