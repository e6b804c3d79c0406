"""What a pod mounts beside what its template says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob

# Secrets and configuration; for those who are in the pod's group.
_MODE = 0o440
SHARED_MEMORY = "/dev/shm"
TEMPORARY = "/tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One volume and the folder it is mounted at."""

    name: str
    path: str
    source: Mapping[str, Any]
    read_only: bool = False


def volumes(job: ElasticJob) -> list[dict[str, Any]]:
    """Of the pod, sized by its container for the agent."""
    return [{"name": mount.name, **mount.source} for mount in _wanted(job)]


def volume_mounts(job: ElasticJob) -> list[dict[str, Any]]:
    """Of the agent's container."""
    return [
        {"name": mount.name, "mountPath": mount.path, **({"readOnly": True} if mount.read_only else {})}
        for mount in _wanted(job)
    ]


def _wanted(job: ElasticJob) -> Iterator[Mount]:
    """All but those at whose path the template mounts something itself."""
    container = _agent(job)
    taken = {mount.get("mountPath", "").rstrip("/") for mount in container.get("volumeMounts", [])}
    for mount in (*_files(job), *_folders(container)):
        if mount.path not in taken:
            yield mount


def _files(job: ElasticJob) -> Iterator[Mount]:
    name, spec = job.metadata.name, job.spec
    secret = names.secret_name(name)
    yield _secret("holdfast-secret", _folder(names.SECRET_FILE), secret)
    if spec.program is not None:
        config = {"configMap": {"name": names.config_name(name), "defaultMode": _MODE}}
        yield Mount(name="holdfast-job", path=_folder(names.SPEC_FILE), source=config, read_only=True)
    for volume, path, reference in (
        ("holdfast-store-tls", names.STORE_TLS_FOLDER, spec.rendezvous.tls_secret),
        ("holdfast-store-user", names.STORE_USER_FOLDER, spec.rendezvous.credentials_secret),
        ("holdfast-storage", names.STORAGE_FOLDER, spec.state.credentials_secret),
    ):
        if reference is not None:
            yield _secret(volume, path, reference.name)


def _folders(container: Mapping[str, Any]) -> Iterator[Mount]:
    """What is written lies in these: the root of the container is read-only."""
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    # It counts towards the container's memory anyway; without a limit the kubelet gives it half of the host's.
    memory = {"medium": "Memory", **({"sizeLimit": limit} if limit is not None else {})}
    yield Mount(name="holdfast-shm", path=SHARED_MEMORY, source={"emptyDir": memory})
    yield Mount(name="holdfast-scratch", path=names.SCRATCH_FOLDER, source={"emptyDir": {}})
    yield Mount(name="holdfast-tmp", path=TEMPORARY, source={"emptyDir": {}})


def _secret(volume: str, path: str, secret: str) -> Mount:
    source = {"secret": {"secretName": secret, "defaultMode": _MODE}}
    return Mount(name=volume, path=path, source=source, read_only=True)


def _agent(job: ElasticJob) -> Mapping[str, Any]:
    containers: list[Mapping[str, Any]] = job.spec.template["spec"]["containers"]
    return next(container for container in containers if container.get("name") == names.AGENT_CONTAINER)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
