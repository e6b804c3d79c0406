"""The cluster that a kubeconfig names, reached as `kubectl` would: objects as JSON, and refusals as messages."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from holdfast.errors import JobFailedError, UserError
from holdfast_operator.api.v1alpha1 import GROUP, KIND, PLURAL, VERSION
from holdfast_operator.api.v1alpha1.names import LABEL_JOB

Object = dict[str, Any]
# Whose a field is that was set from here.
FIELD_MANAGER = "holdfast"
_APPLY, _MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
_ANSWER_S = 30.0
_IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """As the command line says; None: as the kubeconfig does."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None


class RefusedError(UserError):
    """The API server said no. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """One namespace of it. Raises: RefusedError; JobFailedError: it does not answer."""

    def __init__(self, client: Any, namespace: str) -> None:
        """`client`: a kubernetes.aio.client.ApiClient."""
        self._client, self.namespace = client, namespace

    @property
    def jobs(self) -> str:
        """Path of all ElasticJobs."""
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}"

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def events(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/events"

    async def get(self, path: str, **query: str) -> Object:
        return await self._ask("GET", path, query)

    async def job(self, name: str) -> Object:
        """Raises: UserError: there is none of that name."""
        try:
            return await self.get(f"{self.jobs}/{name}")
        except RefusedError as error:
            if error.status != 404 or not await self.knows_jobs():
                raise
            raise UserError(f"{name}: there is no {KIND} of that name in namespace {self.namespace}") from error

    async def pods_of(self, job: str) -> list[Object]:
        """By name, those of one number after the other."""
        found = (await self.get(self.pods, labelSelector=f"{LABEL_JOB}={job}"))["items"]
        return sorted(found, key=lambda pod: (len(pod["metadata"]["name"]), pod["metadata"]["name"]))

    async def apply(self, path: str, manifest: Object, *, dry_run: bool = False, force: bool = False) -> Object:
        """Server-side: what the manifest says is so afterwards, and what it does not say stays as others have it."""
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        query |= {"dryRun": "All"} if dry_run else {}
        query |= {"force": "true"} if force else {}
        return await self._ask("PATCH", path, query, manifest, _APPLY)

    async def change(self, path: str, change: Object) -> Object:
        """Of these fields alone."""
        return await self._ask("PATCH", path, {"fieldManager": FIELD_MANAGER}, change, _MERGE)

    async def lines(self, path: str, **query: str) -> AsyncIterator[str]:
        """Of what is answered, as it comes."""
        endless = aiohttp.ClientTimeout(sock_connect=_ANSWER_S)
        response = await self._send("GET", path, query, None, "", endless)
        try:
            if response.status >= 300:
                raise _refusal(response.status, await response.read())
            async for line in _split(response.content.iter_any()):
                yield line
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._silent(error) from error
        finally:
            response.close()

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None = None, content: str = ""
    ) -> Object:
        response = await self._send(method, path, query, body, content, _ANSWER_S)
        try:
            data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._silent(error) from error
        if response.status >= 500:
            raise JobFailedError(f"the cluster cannot do it now: {_message(data) or response.status}")
        if response.status >= 300:
            raise _refusal(response.status, data)
        told: Object = json.loads(data)
        return told

    async def _send(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None, content: str, bounds: Any
    ) -> Any:
        headers = {"Accept": "application/json"} | ({"Content-Type": content} if content else {})
        try:
            return await self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=bounds,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._silent(error) from error

    async def knows_jobs(self) -> bool:
        """Raises: UserError: the cluster has no such kind of objects."""
        try:
            await self.get(f"/apis/{GROUP}/{VERSION}")
        except RefusedError as error:
            if error.status != 404:
                raise
            raise UserError(
                f"the cluster does not know {KIND}s ({GROUP}/{VERSION}); install the operator's chart: charts/holdfast"
            ) from error
        return True

    def _silent(self, error: Exception) -> JobFailedError:
        return JobFailedError(f"the cluster at {self._client.configuration.host} does not answer: {error!r}")


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Cluster]:
    """Raises: UserError: the kubeconfig cannot be used, or the client is not installed."""
    try:
        from kubernetes.aio import client
    except ImportError as error:
        raise UserError("holdfast k8s needs the Kubernetes client: pip install 'holdfast[operator]'") from error
    configuration = client.Configuration()
    namespace = await _configure(configuration, where)
    # Requests are tried once: a person is there to try again.
    async with client.ApiClient(configuration) as opened:
        yield Cluster(opened, where.namespace or namespace or "default")


async def _configure(configuration: Any, where: Where) -> str | None:
    """The namespace that goes with it."""
    from kubernetes.aio import config
    from kubernetes.aio.config import kube_config

    path = _kubeconfig(where)
    try:
        if path is None:
            config.load_incluster_config(client_configuration=configuration)
            return _own_namespace()
        contexts, current = kube_config.list_kube_config_contexts(path)
        await config.load_kube_config(
            path, context=where.context, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, OSError) as error:
        raise UserError(f"kubeconfig {path}: {error}; give --kubeconfig and --context, or set KUBECONFIG") from error
    chosen = next((one for one in contexts if one["name"] == where.context), current)
    namespace: str | None = chosen["context"].get("namespace")
    return namespace


def _kubeconfig(where: Where) -> str | None:
    """None: this runs in a pod, which has its own credentials."""
    path = Path(where.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config").expanduser()
    is_in_pod = where.kubeconfig is None and not path.exists() and _IN_CLUSTER.exists()
    return None if is_in_pod else str(path)


def _own_namespace() -> str:
    return _IN_CLUSTER.read_text(encoding="utf-8").strip()


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """A last line without an end counts; one that never ends comes in parts."""
    left = b""
    async for piece in pieces:
        *whole, left = (left + piece).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
        if len(left) > _LINE_BYTES_MAX:
            yield left.decode(errors="replace")
            left = b""
    if left:
        yield left.decode(errors="replace")


def _refusal(status: int, data: bytes) -> RefusedError:
    told = _told(data)
    causes = told.get("details", {}).get("causes", []) if status == 422 else []
    lines = [f"{cause.get('field', 'object')}: {cause.get('message', '')}" for cause in causes]
    message = "\n".join(lines) or told.get("message") or f"the cluster refuses with status {status}"
    if status == 409:
        message += "\nanother than holdfast set that; take it over with --force, or leave it out"
    return RefusedError(status, message)


def _message(data: bytes) -> str:
    return str(_told(data).get("message", ""))


def _told(data: bytes) -> Object:
    """A Status, if that is what it is."""
    try:
        told = json.loads(data)
    except ValueError:
        return {"message": data.decode(errors="replace")[:500]}
    return told if isinstance(told, dict) else {}
