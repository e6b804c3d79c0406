"""From what is seen to what is done: whatever changes puts its job into the queue, and a pass over a job takes a
snapshot, decides, and carries that out.

Nothing polls. A pass waits until the caches show what the passes before it wrote.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from holdfast.errors import HoldfastError
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.names import LABEL_JOB
from holdfast_operator.handlers.cache import Cache, Key
from holdfast_operator.handlers.client import ELASTIC_JOBS, NODES, PODS, Cluster, Object, Resource
from holdfast_operator.handlers.entries import JobEntry, job_entry
from holdfast_operator.handlers.errors import ClusterUnavailableError, LeadershipLostError, StaleError
from holdfast_operator.handlers.executing import Executor, Known, Pass
from holdfast_operator.handlers.expectations import Expectations
from holdfast_operator.handlers.informer import Informer, Wanted
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.rendezvous import Rendezvous, Seen
from holdfast_operator.handlers.tasks import Tasks
from holdfast_operator.handlers.views import PodEntry, host_view, pod_entry
from holdfast_operator.handlers.work_queue import WorkQueue
from holdfast_operator.reconcile.actions import Decision, WriteStatus
from holdfast_operator.reconcile.snapshot import HostView, PodPhase, Snapshot

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """What is decided, of a job, and of an object that is none: `invalid(metadata, status, problem, now_s)`."""

    reconcile: Callable[[Snapshot], Decision]
    invalid: Callable[[Metadata, ElasticJobStatus, str, float], ElasticJobStatus]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerSettings:
    """`namespace` "": all of them. `progress_s`: so often at most a step alone is worth a pass."""

    namespace: str = ""
    workers: int = 8
    resync_s: float = 600.0
    progress_s: float = 30.0


class Manager:
    """Runs while this replica leads. `may_act`: whether it does, beyond doubt."""

    def __init__(
        self,
        cluster: Cluster,
        settings: ManagerSettings,
        metrics: OperatorMetrics,
        decide: Deciding,
        may_act: Callable[[], bool],
    ) -> None:
        self._settings, self._metrics, self._decide = settings, metrics, decide
        self._tasks = Tasks()
        self._queue: WorkQueue[Key] = WorkQueue(depth=metrics.queue_depth.set)
        self._known: dict[Key, Known] = {}
        self._put_off: set[Key] = set()  # jobs whose pass waits for what is expected
        self._expectations = Expectations(shown=self._shown)
        self._rendezvous = Rendezvous(cluster, self._tasks, self._run_changed)
        self._executor = Executor(cluster, self._rendezvous, self._expectations, metrics, may_act)
        self._jobs = self._informer(cluster, ELASTIC_JOBS, Cache(), job_entry, self._job_changed)
        pods: Cache[PodEntry] = Cache({"job": lambda pod: pod.job, "host": lambda pod: pod.host})
        self._pods = self._informer(cluster, PODS, pods, pod_entry, self._pod_changed)
        self._nodes = self._informer(cluster, NODES, Cache(), host_view, self._node_changed)

    @property
    def is_synced(self) -> bool:
        return all(informer.synced.is_set() for informer in (self._jobs, self._pods, self._nodes))

    async def run(self) -> None:
        """Until cancelled.

        Raises: LeadershipLostError, or what any of its tasks failed with.
        """
        try:
            for informer in (self._jobs, self._pods, self._nodes):
                self._tasks.start(informer.run(), "informer")
            for number in range(self._settings.workers):
                self._tasks.start(self._work(), f"worker {number}")
            self._tasks.start(self._resync(), "resync")
            await self._tasks.failure()
        finally:
            await self._tasks.close()
            await self._rendezvous.close()

    def _informer(
        self,
        cluster: Cluster,
        resource: Resource,
        cache: Cache[T],
        see: Callable[[Object], T | None],
        changed: Callable[[Key, T | None, T | None], None],
    ) -> Informer[T]:
        wanted = Wanted(
            resource=resource,
            namespace="" if resource is NODES else self._settings.namespace,
            selector=LABEL_JOB if resource is PODS else "",
        )
        informer = Informer(cluster, wanted, cache, see, changed, self._metrics)
        informer.seen = lambda version: self._expectations.reached(resource, version)
        return informer

    def _job_changed(self, key: Key, before: JobEntry | None, after: JobEntry | None) -> None:
        self._metrics.jobs.set(len(self._jobs.cache))
        if before is not None and (after is None or after.metadata.uid != before.metadata.uid):
            self._rendezvous.forget(key, empty=True)
            self._known.pop(key, None)
        if after is None:
            return
        if before is not None and _without_status(before) == _without_status(after):
            self._queue.add_echo(key)  # nobody else writes it
        else:
            self._queue.add(key)

    def _shown(self, job: Key) -> None:
        if job in self._put_off:
            self._queue.add(job)
        else:
            self._queue.add_echo(job)

    def _pod_changed(self, _: Key, before: PodEntry | None, after: PodEntry | None) -> None:
        for job in {pod.job for pod in (before, after) if pod is not None}:
            self._queue.add(job)

    def _node_changed(self, key: Key, before: HostView | None, after: HostView | None) -> None:
        for pod in self._pods.cache.find("host", key):
            self._queue.add(pod.job)

    def _run_changed(self, job: Key, is_news: bool) -> None:
        if is_news:
            self._queue.add(job)
        else:
            self._queue.add_after(job, self._settings.progress_s)

    async def _resync(self) -> None:
        """Each job now and then, although nothing happened; also what others changed unseen is put right again."""
        every_s = self._settings.resync_s
        while True:
            await asyncio.sleep(every_s)
            for key in self._jobs.cache:
                self._queue.add_after(key, random.uniform(0, every_s))
            for known in self._known.values():
                known.has_secret, known.config = False, None

    async def _work(self) -> None:
        for informer in (self._jobs, self._pods, self._nodes):
            await informer.synced.wait()
        while True:
            key, seen_s = await self._queue.take()
            wait_s = self._expectations.wait_s(key, asyncio.get_running_loop().time())
            if wait_s > 0:
                self._put_off.add(key)
                self._queue.put_off(key, wait_s)  # or until they show
                continue
            self._put_off.discard(key)
            failed, after_s = True, 0.0
            try:
                failed = not await self._pass(key, seen_s)
            except LeadershipLostError:
                raise
            except StaleError as error:
                # What it went by has changed, which the cache is about to show.
                log.info("pass.stale", extra={"job": "/".join(key), "error": str(error)})
            except HoldfastError as error:
                after_s = (error.after_s or 0.0) if isinstance(error, ClusterUnavailableError) else 0.0
                self._metrics.pass_failed(error)
                log.warning("pass.failed", extra={"job": "/".join(key), "error": str(error)})
            except Exception as error:  # a bug that one job shows must not stop all the others
                self._metrics.pass_failed(error)
                log.exception("pass.broken", extra={"job": "/".join(key)})
            finally:
                self._queue.done(key, failed=failed, after_s=after_s)

    async def _pass(self, key: Key, seen_s: float) -> bool:
        """Whether all was done that was decided."""
        loop = asyncio.get_running_loop()
        entry = self._jobs.cache.get(key)
        if entry is None:
            return True
        begun_s = loop.time()
        try:
            return await self._look(key, entry, seen_s)
        finally:
            self._metrics.passed(loop.time() - begun_s)

    async def _look(self, key: Key, entry: JobEntry, seen_s: float) -> bool:
        job, known = entry.job, self._remembered(key, entry.metadata)
        if not entry.is_ours:
            if entry.metadata.deleted_s is None:
                self._rendezvous.forget(key, empty=False)
            return True
        doing = Pass(job=entry.metadata, status=entry.status, seen_s=seen_s, known=known)
        if job is None:
            status = self._decide.invalid(entry.metadata, entry.status, entry.problem, time.time())
            return await self._executor.execute((WriteStatus(status=status),), doing)
        seen = self._rendezvous.look(job)
        if not seen.is_known:
            return True  # it is told when it is
        snapshot = self._snapshot(key, job, seen, known)
        decision = self._decide.reconcile(snapshot)
        is_running = any(pod.phase is PodPhase.RUNNING and pod.end is None for pod in snapshot.pods)
        done = await self._executor.execute(decision.actions, replace(doing, is_running=is_running))
        if decision.look_again_s is not None:
            self._queue.add_after(key, decision.look_again_s)
        return done

    def _snapshot(self, key: Key, job: ElasticJob, seen: Seen, known: Known) -> Snapshot:
        pods = tuple(pod.view for pod in self._pods.cache.find("job", key) if pod.owner == job.metadata.uid)
        hosts = (self._nodes.cache.get(("", name)) for name in sorted({pod.host for pod in pods if pod.host}))
        return Snapshot(
            now_s=time.time(),
            job=job,
            pods=pods,
            hosts={host.name: host for host in hosts if host is not None},
            run=seen.run,
            store_trouble=seen.trouble,
            has_secret=known.has_secret,
            config=known.config,
            refusals=dict(known.refusals),
            progress_s=self._settings.progress_s,
        )

    def _remembered(self, key: Key, job: Metadata) -> Known:
        known = self._known.get(key)
        if known is None or known.uid != job.uid:
            known = self._known[key] = Known(uid=job.uid, generation=job.generation)
        if known.generation != job.generation:
            known.generation = job.generation
            known.refusals.clear()
        return known


def _without_status(entry: JobEntry) -> tuple[object, ...]:
    """What others than this operator write of it."""
    metadata = entry.metadata.model_copy(update={"resource_version": ""})
    return metadata, entry.job.spec if entry.job is not None else None, entry.problem, entry.managed_by
