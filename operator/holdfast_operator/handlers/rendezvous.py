"""The jobs' rendezvous: what it shows of each, and the drains that this operator writes there."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.agent.draining import ask_to_drain
from holdfast.errors import StoreError, StoreUnavailableError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.keys import Keys
from holdfast.model.records import DrainRecord
from holdfast.ports.store import Store
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.names import job_id
from holdfast_operator.handlers.cache import Key
from holdfast_operator.handlers.client import Cluster
from holdfast_operator.handlers.connection import Connection
from holdfast_operator.handlers.following import Follower
from holdfast_operator.handlers.run_fold import RunFold
from holdfast_operator.handlers.store_access import StorePlace, place_of
from holdfast_operator.handlers.tasks import Tasks
from holdfast_operator.reconcile.snapshot import RunSnapshot

log = logging.getLogger(__name__)
_AGAIN_S = 5.0
# Keys of a job that is gone are given up where the store stays away, or its agents stay, for so long.
_EMPTY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """`is_known` False: wait, it is being read, perhaps again. `trouble`: why it cannot be; `run` is then what was seen
    last."""

    is_known: bool
    run: RunSnapshot | None
    trouble: str


@dataclass(frozen=True, slots=True)
class _Followed:
    place: StorePlace
    uid: str
    follower: Follower
    connection: Connection


class Rendezvous:
    """`changed(job, is_news)`: something about a job is seen; without news it is only progress."""

    def __init__(self, cluster: Cluster, tasks: Tasks, changed: Callable[[Key, bool], None]) -> None:
        self._cluster, self._tasks, self._changed = cluster, tasks, changed
        self._connections: dict[StorePlace, Connection] = {}
        self._jobs: dict[Key, _Followed] = {}

    def look(self, job: ElasticJob) -> Seen:
        """What is known of it; from the first look on it is followed."""
        key = (job.metadata.namespace, job.metadata.name)
        try:
            place = place_of(job.spec.rendezvous, job.metadata.namespace)
        except UserError as error:
            return Seen(True, None, str(error))
        followed = self._jobs.get(key)
        if followed is not None and (followed.place, followed.uid) != (place, job.metadata.uid):
            self._detach(followed)
            followed = None
        if followed is None:
            followed = self._jobs[key] = self._follow(key, job, place)
        follower = followed.follower
        trouble = followed.connection.trouble or follower.trouble or follower.fold.trouble
        return Seen(follower.is_current or bool(trouble), follower.fold.snapshot(), trouble)

    async def drain(self, job: Key, node: NodeId, grace_s: float, reason: str) -> bool:
        """Whether it was written: one that stands stays if it ends sooner, or is released. It is meant for the agent
        that is there now, not for one that comes under the same name.

        Raises: StoreError: the store is away, or refuses.
        """
        keys, store = self._reach(job)
        incarnation = self._jobs[job].follower.fold.incarnation_of(node)
        record = DrainRecord(node=node, grace_s=grace_s, reason=reason, incarnation=incarnation)
        return await ask_to_drain(store, keys, record)

    async def cancel_drain(self, job: Key, node: NodeId) -> bool:
        """Whether there was one. Raises: StoreError: the store is away, or refuses."""
        keys, store = self._reach(job)
        return await store.delete(keys.drain(node))

    def forget(self, job: Key, *, empty: bool) -> None:
        """It is followed no more; `empty`: it is gone, so its keys go as well, once its agents have ended."""
        followed = self._jobs.pop(job, None)
        if followed is None:
            return
        if empty:
            self._tasks.start(self._empty(followed), name=f"emptying {followed.follower.keys.job}")
        else:
            self._detach(followed)

    async def close(self) -> None:
        """The tasks end with their owner; what they hold open ends here."""
        connections = tuple(self._connections.values())
        self._connections.clear()
        self._jobs.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    def _follow(self, key: Key, job: ElasticJob, place: StorePlace) -> _Followed:
        connection = self._connections.get(place)
        if connection is None:
            connection = self._connections[place] = self._connect(place)
        metadata, status = job.metadata, job.status
        keys = Keys(job=job_id(metadata.name, metadata.uid))
        fold = RunFold(keys, recoveries=status.recoveries, generation=status.generation or 0)
        follower = Follower(keys, fold, lambda is_news: self._changed(key, is_news))
        connection.attach(follower)
        return _Followed(place, metadata.uid, follower, connection)

    def _connect(self, place: StorePlace) -> Connection:
        return Connection(self._cluster, place, self._tasks, lambda: self._trouble(place))

    def _detach(self, followed: _Followed) -> None:
        connection = followed.connection
        connection.detach(followed.follower)
        if not connection.is_used and self._connections.get(followed.place) is connection:
            del self._connections[followed.place]
            self._tasks.start(connection.close(), name=f"closing {followed.place.address}")

    def _reach(self, job: Key) -> tuple[Keys, Store]:
        followed = self._jobs.get(job)
        store = followed.connection.store if followed is not None else None
        if followed is None or store is None:
            trouble = followed.connection.trouble if followed is not None else ""
            raise StoreUnavailableError(f"the rendezvous of {'/'.join(job)} is not open: {trouble or 'not yet'}")
        return followed.follower.keys, store

    def _trouble(self, place: StorePlace) -> None:
        for job, followed in self._jobs.items():
            if followed.place == place:
                self._changed(job, True)

    async def _empty(self, followed: _Followed) -> None:
        keys = followed.follower.keys
        try:
            async with asyncio.timeout(_EMPTY_S):
                while True:
                    if await self._try_to_empty(followed):
                        break
                    await asyncio.sleep(_AGAIN_S)
            log.info("run.emptied", extra={"run": keys.job})
        except TimeoutError:
            log.error("run.not_emptied", extra={"run": keys.job, "trouble": followed.connection.trouble})
        self._detach(followed)

    async def _try_to_empty(self, followed: _Followed) -> bool:
        store = followed.connection.store
        if store is None:
            return False
        try:
            await followed.follower.empty(store)
        except StoreError as error:
            log.warning("run.not_emptied_yet", extra={"run": followed.follower.keys.job, "error": str(error)})
            return False
        except Exception:  # a bug; what is left over of one job must not stop all the others
            log.exception("run.not_emptied_yet", extra={"run": followed.follower.keys.job})
            return False
        return True
