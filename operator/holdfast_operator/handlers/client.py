"""The API server, as this operator speaks to it: raw JSON objects in, raw JSON objects out, a deadline for each call.

Objects stay dictionaries: models of thousands of pods and nodes would cost more than everything that is done with them.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from holdfast.errors import UserError
from holdfast_operator.api.v1alpha1 import GROUP, PLURAL, VERSION
from holdfast_operator.api.v1alpha1.names import FIELD_MANAGER
from holdfast_operator.handlers.decoding import decode_json
from holdfast_operator.handlers.errors import (
    ClusterError,
    ClusterUnavailableError,
    ExistsError,
    ExpiredError,
    NotFoundError,
    RefusedError,
    StaleError,
)
from holdfast_operator.handlers.metrics import OperatorMetrics

Object = dict[str, Any]

_CALL_S = 10.0
_LIST_S = 60.0
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_MERGE: Final = "application/merge-patch+json"
_OURS: Final = {"fieldManager": FIELD_MANAGER}
_METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "patch": "PATCH",
    "update": "PUT",
    "delete": "DELETE",
}
_STATUS_INVALID: Final = frozenset({400, 403, 405, 413, 415, 422})


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object; `group` is "" for the core."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(part for part in (f"{root}{within}/{self.plural}", name, subresource) if part)


ELASTIC_JOBS: Final = Resource(GROUP, VERSION, PLURAL)
PODS: Final = Resource("", "v1", "pods")
NODES: Final = Resource("", "v1", "nodes")
SECRETS: Final = Resource("", "v1", "secrets")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
EVENTS: Final = Resource("", "v1", "events")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list. `more` continues it; "": this was the last."""

    items: tuple[Object, ...]
    resource_version: str
    more: str


@dataclass(frozen=True, slots=True)
class _Request:
    """`verb` is one of those that rights are given for."""

    verb: str
    resource: Resource
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    kind: str = "application/json"  # of `body`

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"


class Cluster:
    """Build it inside a running event loop; `close` it."""

    def __init__(self, configuration: Configuration, metrics: OperatorMetrics) -> None:
        self._client, self._metrics = ApiClient(configuration), metrics
        self._client.user_agent = FIELD_MANAGER

    @staticmethod
    async def connect(kubeconfig: Path | None, metrics: OperatorMetrics) -> "Cluster":
        """By `kubeconfig`; without one as the pod that this is, else by KUBECONFIG or ~/.kube/config.

        Raises: UserError: none of these can be used.
        """
        # Its class is called through a metaclass that hands out one default.
        configuration = type.__call__(Configuration)
        try:
            if kubeconfig is None and _is_pod():
                config.load_incluster_config(configuration)
            else:
                path = str(kubeconfig) if kubeconfig is not None else None
                await config.load_kube_config(path, client_configuration=configuration)
            return Cluster(configuration, metrics)
        except (config.ConfigException, OSError, ssl.SSLError, KeyError, TypeError, ValueError) as error:
            where = f"--kubeconfig {kubeconfig}" if kubeconfig is not None else "KUBECONFIG"
            raise UserError(f"{where}: cannot be used: {error}; give a kubeconfig, or run in a pod") from error

    async def close(self) -> None:
        await self._client.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Raises: NotFoundError, RefusedError, ClusterUnavailableError."""
        return await self._ask(_Request("get", resource, resource.path(namespace, name)))

    async def list_page(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> Page:
        """`namespace` "": of all.

        Raises:
            ExpiredError: the list that this continues is gone.
            RefusedError, ClusterUnavailableError.
        """
        answer = await self._ask(_Request("list", resource, resource.path(namespace), query), _LIST_S)
        metadata = answer.get("metadata") or {}
        return Page(
            items=tuple(answer.get("items") or ()),
            resource_version=metadata.get("resourceVersion") or "",
            more=metadata.get("continue") or "",
        )

    async def watch(
        self, resource: Resource, namespace: str, query: Mapping[str, str], silence_s: float
    ) -> AsyncIterator[Object]:
        """Changes as they come, until the API server ends the watch; `silence_s` without a byte ends it as well.

        Raises:
            ExpiredError: the history asked for is gone, also in the midst of it.
            RefusedError, ClusterUnavailableError.
        """
        request = _Request("watch", resource, resource.path(namespace), {**query, "watch": "true"})
        response = await self._send(request, aiohttp.ClientTimeout(sock_connect=_CALL_S, sock_read=silence_s))
        try:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield _event(decode_json(line))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterUnavailableError(f"watch of {resource.plural} broke off: {error!r}") from error
        finally:
            response.close()

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Raises: ExistsError, RefusedError, ClusterUnavailableError."""
        return await self._ask(_Request("create", resource, resource.path(namespace), _OURS, body))

    async def apply(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Server-side, with force: what is in `body` is this operator's.

        Raises: RefusedError, ClusterUnavailableError.
        """
        query = {**_OURS, "force": "true"}
        return await self._ask(_Request("patch", resource, resource.path(namespace, name), query, body, _APPLY))

    async def merge(self, resource: Resource, namespace: str, name: str, body: Object, subresource: str = "") -> Object:
        """A JSON merge patch; with metadata.resourceVersion in `body` it holds for that version alone.

        Raises: NotFoundError, StaleError, RefusedError, ClusterUnavailableError.
        """
        path = resource.path(namespace, name, subresource)
        return await self._ask(_Request("patch", resource, path, _OURS, body, _MERGE))

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Raises: NotFoundError, StaleError, RefusedError, ClusterUnavailableError."""
        return await self._ask(_Request("update", resource, resource.path(namespace, name), _OURS, body))

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, grace_s: int | None = None
    ) -> Object:
        """Of this uid only; what it owns is collected afterwards.

        Raises: NotFoundError, StaleError, RefusedError, ClusterUnavailableError.
        """
        body: Object = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        return await self._ask(_Request("delete", resource, resource.path(namespace, name), {}, body))

    async def _ask(self, request: "_Request", within_s: float = _CALL_S) -> Object:
        response = await self._send(request, aiohttp.ClientTimeout(total=within_s))
        try:
            answer: Object = decode_json(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterUnavailableError(f"{request}: the answer broke off: {error!r}") from error
        return answer

    async def _send(self, request: "_Request", limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        code = "none"
        try:
            response: aiohttp.ClientResponse = await self._client.call_api(
                request.path,
                _METHODS[request.verb],
                query_params=list(request.query.items()),
                header_params={"Accept": "application/json", "Content-Type": request.kind},
                body=request.body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=limits,
            )
            code = str(response.status)
            if response.status < 300:
                return response
            raise _error(response.status, await _status_of(response), response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnavailableError(f"{request}: no answer: {error!r}") from error
        finally:
            self._metrics.api_called(request.verb, request.resource.plural, code)


def _event(event: Object) -> Object:
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        raise _error(int(status.get("code") or 500), status, None)
    return event


async def _status_of(response: aiohttp.ClientResponse) -> Object:
    text = await response.text(errors="replace")
    try:
        status = decode_json(text.encode())
    except ValueError:
        status = None
    return status if isinstance(status, dict) else {"message": text[:500]}


def _error(code: int, status: Object, retry_after: str | None) -> ClusterError:
    message = f"{status.get('message') or 'no message'} ({code})"
    match code, status.get("reason"):
        case 404, _:
            return NotFoundError(message)
        case 409, "AlreadyExists":
            return ExistsError(message)
        case 409, _:
            return StaleError(message)
        case 410, _:
            return ExpiredError(message)
        case _ if code in _STATUS_INVALID:
            return RefusedError(message)
    return ClusterUnavailableError(message, float(retry_after) if retry_after and retry_after.isdigit() else None)


def _is_pod() -> bool:
    return Path(config.incluster_config.SERVICE_TOKEN_FILENAME).is_file()
