"""Carries out what was decided about a job: every write is such that doing it again, or by two replicas, does no harm.

What the API server refuses is remembered and shown to the next decision, and so is a drain that the rendezvous does
not take; what else is temporary ends the pass, and so does a status that was not written.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from holdfast.errors import HoldfastError, StoreError
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobStatus, Metadata
from holdfast_operator.api.v1alpha1.names import LABEL_JOB
from holdfast_operator.handlers.cache import Key
from holdfast_operator.handlers.client import CONFIG_MAPS, ELASTIC_JOBS, PODS, SECRETS, Cluster, Object, Resource
from holdfast_operator.handlers.errors import (
    ClusterError,
    ExistsError,
    LeadershipLostError,
    NameTakenError,
    NotFoundError,
    RefusedError,
    StaleError,
)
from holdfast_operator.handlers.events import Events
from holdfast_operator.handlers.expectations import Expectations
from holdfast_operator.handlers.metrics import OperatorMetrics
from holdfast_operator.handlers.rendezvous import Rendezvous
from holdfast_operator.reconcile.actions import (
    Action,
    ApplyConfig,
    CancelDrain,
    CreatePod,
    CreateSecret,
    DeleteJob,
    DeletePod,
    DrainNode,
    TellEvent,
    WriteStatus,
)
from holdfast_operator.reconcile.pods import owner_reference

log = logging.getLogger(__name__)
_SECRET_BYTES = 32
_MAKES_PODS = (CreateSecret, ApplyConfig, CreatePod)
_DRAINS = (DrainNode, CancelDrain)


@dataclass(slots=True)
class Known:
    """What is remembered of one job between passes."""

    uid: str
    generation: int  # of its spec, when the refusals were noted
    has_secret: bool = False
    config: str | None = None
    refusals: dict[str, str] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)  # names of pods that were to be made and were there


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over a job; `status`: as it stands there; `seen_s`: when, on the loop's clock, what led to this was
    seen; `is_running`: pods of it run, with what they mounted."""

    job: Metadata
    status: ElasticJobStatus
    seen_s: float
    known: Known
    is_running: bool = False

    @property
    def key(self) -> Key:
        return self.job.namespace, self.job.name


class Executor:
    """`may_act`: whether this replica leads, beyond doubt; asked before every action."""

    def __init__(
        self,
        cluster: Cluster,
        rendezvous: Rendezvous,
        expectations: Expectations,
        metrics: OperatorMetrics,
        may_act: Callable[[], bool],
    ) -> None:
        self._cluster, self._rendezvous, self._expectations = cluster, rendezvous, expectations
        self._metrics, self._may_act = metrics, may_act
        self._events = Events(cluster)

    async def execute(self, actions: tuple[Action, ...], doing: Pass) -> bool:
        """Whether all was done; if not, some of it was refused, and is worth another try later.

        Raises:
            ClusterUnavailableError, StaleError: the pass ends here, and is worth another try.
            LeadershipLostError.
        """
        # The status that was decided upon tells of what is forgotten now: it is to be decided anew.
        done = not self._forget_refusals(actions, doing)
        may_create, may_drain = True, True
        for action in actions:
            if not self._may_act():
                raise LeadershipLostError("this replica does not lead any more")
            if isinstance(action, CreatePod) and not may_create:
                continue  # what refused one pod refuses the next, and none starts without what it mounts
            if isinstance(action, _DRAINS) and not may_drain:
                continue  # a rendezvous that does not answer is waited for once, and what else is to be done is not
            try:
                result = await self._do(action, doing)
            except RefusedError as error:
                self._refused(action, error, doing)
                refuses_all = isinstance(action, _MAKES_PODS) and not isinstance(error, NameTakenError)
                may_create, done = may_create and not refuses_all, False
                if isinstance(action, WriteStatus):
                    raise  # nothing happens to a pod that is not written there first
            except StoreError as error:
                self._refused(action, error, doing)
                may_drain, done = False, False
            except HoldfastError:
                self._metrics.acted(type(action).__name__, "failed")
                raise
            else:
                doing.known.refusals.pop(_subject(action), None)
                self._metrics.acted(type(action).__name__, result)
                done = done and result != "unseen"
                if result == "done":
                    log.info("action.done", extra=_about(action, doing))
        return done

    def _forget_refusals(self, actions: tuple[Action, ...], doing: Pass) -> bool:
        """Of what is not to be done any more; whether there was any."""
        refusals, wanted = doing.known.refusals, {_subject(action) for action in actions}
        moot = refusals.keys() - wanted
        for subject in moot:
            del refusals[subject]
        doing.known.met &= {action.name for action in actions if isinstance(action, CreatePod)}
        return bool(moot)

    def _refused(self, action: Action, error: HoldfastError, doing: Pass) -> None:
        log.warning("action.refused", extra={**_about(action, doing), "error": str(error)})
        self._metrics.acted(type(action).__name__, "refused")
        doing.known.refusals[_subject(action)] = str(error)

    async def _do(self, action: Action, doing: Pass) -> str:
        """What came of it: done; or nothing, where it was done before or there is nothing to do it to; or unseen, where
        what is in its way is not seen yet."""
        match action:
            case CreateSecret():
                return await self._create_secret(action, doing)
            case ApplyConfig():
                return await self._apply_config(action, doing)
            case CreatePod():
                return await self._create_pod(action, doing)
            case DeletePod():
                return await self._delete_pod(action, doing)
            case DrainNode():
                written = await self._rendezvous.drain(doing.key, action.node, action.grace_s, action.reason)
                if written:
                    self._metrics.drained(asyncio.get_running_loop().time() - doing.seen_s)
                return "done" if written else "nothing"
            case CancelDrain():
                return "done" if await self._rendezvous.cancel_drain(doing.key, action.node) else "nothing"
            case WriteStatus():
                return await self._write_status(action.status, doing)
            case TellEvent():
                return await self._tell(action, doing)
            case DeleteJob():
                return await self._delete_job(action, doing)

    async def _create_secret(self, action: CreateSecret, doing: Pass) -> str:
        """All pods of a job hold the same one: who holds another cannot speak to them."""
        body = _owned("v1", "Secret", action.name, doing.job)
        body |= {"type": "Opaque", "stringData": {"secret": secrets.token_hex(_SECRET_BYTES)}}
        result = "nothing"
        if not doing.is_running:
            with suppress(ExistsError):
                await self._cluster.create(SECRETS, doing.job.namespace, body)
                result = "done"
        if result == "nothing":
            await self._check_secret(action, doing)
        doing.known.has_secret = True
        return result

    async def _check_secret(self, action: CreateSecret, doing: Pass) -> None:
        """Raises: RefusedError: it is not this job's, or gone although pods run with it."""
        try:
            found = await self._cluster.get(SECRETS, doing.job.namespace, action.name)
        except NotFoundError as error:
            if not doing.is_running:  # it was that of an earlier job of this name, and is collected by now
                raise StaleError(f"Secret {action.name} went meanwhile") from error
            raise RefusedError(
                "it is gone, and pods run that hold it, to which pods with another cannot speak; put it back, or "
                "suspend the job and resume it"
            ) from error
        owners = found["metadata"].get("ownerReferences") or ()
        if doing.job.uid not in {owner.get("uid") for owner in owners}:
            raise RefusedError("one of that name is there that is not this job's; delete it, or name the job otherwise")
        if not (found.get("data") or {}).get("secret"):
            raise RefusedError("it has no entry `secret`; delete it once the job is suspended")

    async def _apply_config(self, action: ApplyConfig, doing: Pass) -> str:
        body = _owned("v1", "ConfigMap", action.name, doing.job) | {"data": {"spec.yaml": action.spec}}
        await self._cluster.apply(CONFIG_MAPS, doing.job.namespace, action.name, body)
        doing.known.config = action.spec
        return "done"

    async def _create_pod(self, action: CreatePod, doing: Pass) -> str:
        try:
            answer = await self._cluster.create(PODS, doing.job.namespace, action.manifest)
        except ExistsError as error:
            # One that a replica made before this one may just not be seen yet; what is not seen by the next pass either
            # is no pod of this job.
            if action.name not in doing.known.met:
                doing.known.met.add(action.name)
                return "unseen"
            raise NameTakenError(
                "a pod of that name is there that belongs to something else; delete it, or name the job otherwise"
            ) from error
        doing.known.met.discard(action.name)
        self._wrote(PODS, answer, doing)
        return "done"

    async def _delete_pod(self, action: DeletePod, doing: Pass) -> str:
        namespace = doing.job.namespace
        try:
            answer = await self._cluster.delete(PODS, namespace, action.name, uid=action.uid, grace_s=action.grace_s)
        except (NotFoundError, StaleError):
            return "nothing"
        self._wrote(PODS, answer, doing)
        return "done"

    async def _write_status(self, status: ElasticJobStatus, doing: Pass) -> str:
        if status == doing.status:
            return "nothing"
        job = doing.job
        body: Object = {
            # Of this version only: two replicas that both think they lead never overwrite each other.
            "metadata": {"resourceVersion": job.resource_version},
            "status": status.model_dump(mode="json", by_alias=True),
        }
        try:
            answer = await self._cluster.merge(ELASTIC_JOBS, job.namespace, job.name, body, "status")
        except NotFoundError as error:
            raise StaleError(f"the job is gone: {error}") from error
        self._wrote(ELASTIC_JOBS, answer, doing)
        return "done"

    async def _tell(self, action: TellEvent, doing: Pass) -> str:
        try:
            await self._events.tell(doing.job, action, time.time())
        except ClusterError as error:
            # People read events; nothing else hangs on them.
            log.warning("event.not_told", extra={**_about(action, doing), "error": str(error)})
            return "failed"
        return "told"

    async def _delete_job(self, action: DeleteJob, doing: Pass) -> str:
        job = doing.job
        try:
            await self._cluster.delete(ELASTIC_JOBS, job.namespace, job.name, uid=action.uid)
        except (NotFoundError, StaleError):
            return "nothing"
        return "done"

    def _wrote(self, resource: Resource, answer: Object, doing: Pass) -> None:
        self._expectations.wrote(doing.key, resource, answer, asyncio.get_running_loop().time())


def _owned(version: str, kind: str, name: str, job: Metadata) -> Object:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": {LABEL_JOB: job.name},
            "ownerReferences": [owner_reference(job)],
        },
    }


def _subject(action: Action) -> str:
    """By kind and name, as in `Snapshot.refusals`."""
    match action:
        case CreateSecret():
            return f"Secret/{action.name}"
        case ApplyConfig():
            return f"ConfigMap/{action.name}"
        case CreatePod() | DeletePod():
            return f"Pod/{action.name}"
        case DrainNode() | CancelDrain():
            return f"Drain/{action.node}"
        case _:
            return type(action).__name__


def _about(action: Action, doing: Pass) -> dict[str, object]:
    fields: dict[str, object] = {
        "job": "/".join(doing.key),
        "action": type(action).__name__,
        "subject": _subject(action),
    }
    for name in ("node", "reason", "grace_s"):
        if hasattr(action, name):
            fields[name] = getattr(action, name)
    return fields
