"""The container that runs a node's agent: its command, environment, probes and rights. An agent is configured by its
environment alone."""

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.reconcile.volumes import volume_mounts

_AGENT = ["holdfast", "agent"]
_TERMINATION_LOG = "/dev/termination-log"
# An agent that starts imports torch and opens a device.
_START_S, _PROBE_S, _WATCH_S = 600, 2, 10


def agent_container(job: ElasticJob, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, from the template, with what is missing in it."""
    container = {**given}
    if job.spec.command is not None:
        container["command"] = list(job.spec.command)
    else:
        # Only an agent is known to answer these probes; another command brings its own.
        container = {"command": _AGENT, **_probes(), **given}
    container["env"] = _environment(job, given.get("env", []))
    if job.spec.state.credentials_secret is not None:
        secret = {"secretRef": {"name": job.spec.state.credentials_secret.name}}
        container["envFrom"] = [*given.get("envFrom", []), secret]
    container["volumeMounts"] = [*given.get("volumeMounts", []), *volume_mounts(job)]
    container["ports"] = _ports(given.get("ports", []))
    container["terminationMessagePath"] = _TERMINATION_LOG
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        **given.get("securityContext", {}),
    }
    return container


def store_url(job: ElasticJob) -> str:
    """Of the rendezvous, as agents read it."""
    rendezvous = job.spec.rendezvous
    scheme = "etcds" if rendezvous.tls_secret is not None else "etcd"
    prefix = names.store_prefix(rendezvous.prefix, job.metadata.namespace)
    return f"{scheme}://{','.join(rendezvous.endpoints)}/{prefix}"


def _environment(job: ElasticJob, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours first, so that the template's may refer to it; one of each name, as server-side apply wants it. Where the
    final weights go the template may say otherwise."""
    ours = [*_downward(), *({"name": name, "value": value} for name, value in _plain(job)), *_store_user(job)]
    if any(entry["name"] == "HOLDFAST_OUT" for entry in given):
        ours = [entry for entry in ours if entry["name"] != "HOLDFAST_OUT"]
    taken = {entry["name"] for entry in ours}
    theirs = [entry for entry in given if entry["name"] not in taken]
    if all(entry["name"] != "OMP_NUM_THREADS" for entry in theirs):
        # One thread a worker, as `torchrun` does: many share a machine, and sums keep one order.
        ours.append({"name": "OMP_NUM_THREADS", "value": "1"})
    return [*ours, *theirs]


def _downward() -> Iterator[dict[str, Any]]:
    for name, path in (
        ("POD_IP", "status.podIP"),
        ("HOLDFAST_NODE", "metadata.name"),
        ("HOLDFAST_DOMAIN", "spec.nodeName"),
    ):
        yield {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _plain(job: ElasticJob) -> Iterator[tuple[str, str]]:
    meta, spec = job.metadata, job.spec
    yield "HOLDFAST_JOB", names.job_id(meta.name, meta.uid)
    yield "HOLDFAST_STORE", store_url(job)
    yield "HOLDFAST_ADDRESS", f"[$(POD_IP)]:{names.AGENT_PORT}"  # IPv4 or IPv6
    yield "HOLDFAST_HEALTH", f"[$(POD_IP)]:{names.HEALTH_PORT}"
    yield "HOLDFAST_LOG", "json"
    yield "HOLDFAST_SECRET_FILE", names.SECRET_FILE
    yield "HOLDFAST_TERMINATION_LOG", _TERMINATION_LOG
    if spec.state.url is not None:
        yield "HOLDFAST_OUT", f"{spec.state.url.rstrip('/')}/weights"
    if spec.program is not None:
        yield "HOLDFAST_SUBMIT", names.SPEC_FILE
    if spec.rendezvous.tls_secret is not None:
        yield "HOLDFAST_STORE_TLS", names.STORE_TLS_FOLDER
    if spec.rendezvous.credentials_secret is not None:
        yield "HOLDFAST_STORE_PASSWORD_FILE", f"{names.STORE_USER_FOLDER}/password"


def _store_user(job: ElasticJob) -> Iterator[dict[str, Any]]:
    reference = job.spec.rendezvous.credentials_secret
    if reference is not None:
        source = {"secretKeyRef": {"name": reference.name, "key": "username"}}
        yield {"name": "HOLDFAST_STORE_USER", "valueFrom": source}


def _ports(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours = [
        {"name": "agent", "containerPort": names.AGENT_PORT, "protocol": "TCP"},
        {"name": "health", "containerPort": names.HEALTH_PORT, "protocol": "TCP"},
    ]
    numbers = {port.get("containerPort") for port in given}
    return [*given, *(port for port in ours if port["containerPort"] not in numbers)]


def _probes() -> dict[str, Any]:
    """Ready: it has joined. Alive: the agent's own watchdog says so."""
    return {
        "startupProbe": _probe("/livez", period_s=_PROBE_S, failures=_START_S // _PROBE_S),
        "livenessProbe": _probe("/livez", period_s=_WATCH_S, failures=6),
        "readinessProbe": _probe("/readyz", period_s=_PROBE_S, failures=2),
    }


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": names.HEALTH_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 2 if period_s < _WATCH_S else 5,
        "failureThreshold": failures,
    }
