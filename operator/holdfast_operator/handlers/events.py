"""Kubernetes events about jobs. One that is told again is counted up: at once, but written at most once a minute."""

import hashlib
from dataclasses import dataclass, field

from holdfast_operator.api.v1alpha1 import GROUP, KIND, VERSION
from holdfast_operator.api.v1alpha1.elastic_job import Metadata
from holdfast_operator.api.v1alpha1.names import FIELD_MANAGER
from holdfast_operator.api.v1alpha1.times import text_of
from holdfast_operator.handlers.client import EVENTS, Cluster, Object
from holdfast_operator.handlers.errors import ExistsError, NotFoundError
from holdfast_operator.reconcile.actions import TellEvent

_WRITE_S = 60.0
_KEPT_S = 3600.0  # as long as the API server keeps events, unless told otherwise
_MESSAGE_MAX = 1024


@dataclass(slots=True)
class _Told:
    count: int
    written_s: float
    unwritten: int = 0


@dataclass(slots=True)
class Events:
    """Tells of events, each under a name that follows from what it says, so that another replica counts on."""

    cluster: Cluster
    _told: dict[tuple[str, str], _Told] = field(default_factory=dict)  # by namespace and name

    async def tell(self, job: Metadata, event: TellEvent, now_s: float) -> None:
        """Raises: ClusterError."""
        self._forget(now_s)
        key = (job.namespace, _name(job, event))
        told = self._told.get(key)
        if told is not None and now_s < told.written_s + _WRITE_S:
            told.unwritten += 1
            return
        count = await self._write(job, event, key, told, now_s)
        self._told.pop(key, None)  # what was written last goes to the end
        self._told[key] = _Told(count, now_s)

    async def _write(
        self, job: Metadata, event: TellEvent, key: tuple[str, str], told: _Told | None, now_s: float
    ) -> int:
        """How often it has been told now."""
        if told is None:
            try:
                await self.cluster.create(EVENTS, job.namespace, _body(job, event, key[1], now_s))
                return 1
            except ExistsError:
                known = await self.cluster.get(EVENTS, *key)
                told = _Told(known.get("count") or 1, now_s)
        count = told.count + told.unwritten + 1
        try:
            await self.cluster.merge(EVENTS, *key, {"count": count, "lastTimestamp": text_of(now_s)})
        except NotFoundError:  # the API server keeps none for long
            await self.cluster.create(EVENTS, job.namespace, {**_body(job, event, key[1], now_s), "count": count})
        return count

    def _forget(self, now_s: float) -> None:
        while self._told:
            key, told = next(iter(self._told.items()))
            if now_s < told.written_s + _KEPT_S:
                return
            del self._told[key]


def _name(job: Metadata, event: TellEvent) -> str:
    said = "\0".join((job.uid, event.type, event.reason, event.message))
    return f"{job.name}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def _body(job: Metadata, event: TellEvent, name: str, now_s: float) -> Object:
    now = text_of(now_s)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": job.namespace},
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": job.name,
            "namespace": job.namespace,
            "uid": job.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_MESSAGE_MAX],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
