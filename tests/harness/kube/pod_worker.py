"""Runs one pod on a node, from the moment that it is bound to it until its last delete."""

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from harness.kube.api import STRATEGIC, Api, ApiError, Object
from harness.kube.container_life import ContainerLife
from harness.kube.containers import Holder, Image, Plan
from harness.kube.environment import MissingReferenceError, Sources, arguments_of, environment_of
from harness.kube.network import GATEWAY, PodNetwork
from harness.kube.pod_status import PodStatus
from harness.kube.volumes import Volumes

_TRY_AGAIN_S = 0.3
_LAST_WORDS = 4000
_UNSUPPORTED = ("hostNetwork", "hostPID", "hostIPC", "ephemeralContainers", "shareProcessNamespace")
_RESTARTS = {"Always": True, "Never": False, "OnFailure": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What all pods of the test's nodes share."""

    api: Api
    folder: Path
    network: PodNetwork
    images: Mapping[str, Image]  # by reference, or by reference without its tag


class PodWorker:
    def __init__(self, machine: Machine, pod: Object) -> None:
        self.pod = pod
        self.holder: Holder | None = None
        self._machine = machine
        self._path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        self._folder = machine.folder / pod["metadata"]["uid"]
        self._status = PodStatus(GATEWAY)
        self._refused = ""  # why the pod cannot be run at all
        self._is_initialized = not pod["spec"].get("initContainers")
        self._news, self._deleted = asyncio.Event(), asyncio.Event()
        self._told: Object = {}
        self._init = [self._life(one, is_init=True) for one in pod["spec"].get("initContainers", ())]
        self._containers = [self._life(one) for one in pod["spec"]["containers"]]
        self._volumes = Volumes(self._folder / "volumes", pod)

    def update(self, pod: Object) -> None:
        """As the API server shows it now."""
        is_hurried = self._deleted.is_set() and _grace_s(pod) < _grace_s(self.pod)
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._deleted.set()
        if is_hurried:
            for one in (*self._init, *self._containers):
                one.kill()

    def find(self, container: str | None) -> ContainerLife:
        everyone = [*self._containers, *self._init]
        return next(one for one in everyone if container in (None, one.spec["name"]))

    def last_words(self) -> Iterator[tuple[str, str]]:
        """The end of each container's log, by pod and container."""
        for one in (*self._init, *self._containers):
            if one.log().exists():
                name = f"{self.pod['metadata']['name']}/{one.spec['name']}"
                yield name, one.log().read_text(errors="replace")[-_LAST_WORDS:]

    async def run(self) -> None:
        """Until the pod is gone; cancelled, its processes are killed and nobody is told."""
        living = asyncio.create_task(self._live(), name=f"life of {self._path}")
        telling = asyncio.create_task(self._keep_telling(), name=f"status of {self._path}")
        deleted = asyncio.create_task(self._deleted.wait())
        try:
            await asyncio.wait({living, deleted}, return_when=asyncio.FIRST_COMPLETED)
            if not living.done():
                await self._stop(living)
            await living
            telling.cancel()
            await self._tell()
            await deleted
            await self._until_heard(self._delete)
        finally:
            for task in (living, telling, deleted):
                task.cancel()
            await asyncio.wait({living, telling, deleted})
            for one in (*self._init, *self._containers):
                await one.end()
            if self.holder is not None:
                await self.holder.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _life(self, spec: Object, *, is_init: bool = False) -> ContainerLife:
        restarts = _RESTARTS[self.pod["spec"].get("restartPolicy", "Always")]
        if is_init and restarts:
            restarts = None
        asked = {**spec, "terminationGracePeriodSeconds": self.pod["spec"].get("terminationGracePeriodSeconds", 30)}
        folder = self._folder / f"container-{spec['name']}"
        return ContainerLife(asked, folder, restarts=restarts, plan=self._plan, changed=self._news.set)

    async def _live(self) -> None:
        self._news.set()
        try:
            self._refuse_what_is_unknown()
            if not await self._has_images():
                return
            await self._prepare()
            for one in self._init:
                await one.run()
                if one.exit_code != 0:
                    return
            self._is_initialized = True
            async with asyncio.TaskGroup() as group:
                for one in self._containers:
                    group.create_task(one.run())
        except* ValueError as trouble:  # The pod's boundary: what this kubelet cannot do, the pod's status says.
            self._refused = "; ".join(str(error) for error in trouble.exceptions)
        self._news.set()

    def _refuse_what_is_unknown(self) -> None:
        for field in _UNSUPPORTED:
            if self.pod["spec"].get(field):
                raise ValueError(f"the test kubelet does not know spec.{field}")
        if any(one.get("restartPolicy") for one in self.pod["spec"].get("initContainers", ())):
            raise ValueError("the test kubelet does not know init containers with a restartPolicy")

    async def _has_images(self) -> bool:
        """If not, the pod waits for them in vain until it is deleted."""
        missing = [one for one in (*self._init, *self._containers) if self._image(one.spec) is None]
        for reason in ("ErrImagePull", "ImagePullBackOff") if missing else ():
            for one in missing:
                message = f'Back-off pulling image "{one.spec["image"]}": not found'
                one.wait_for(reason, message)
            await asyncio.sleep(_TRY_AGAIN_S)
        if missing:
            await self._deleted.wait()
        return not missing

    async def _prepare(self) -> None:
        """Network and volumes; waits for what these refer to."""
        spec, metadata = self.pod["spec"], self.pod["metadata"]
        self.holder = await Holder.start(spec.get("hostname", metadata["name"])[:63], self._machine.network)
        for one in (*self._init, *self._containers):
            one.address = self.holder.address
        while not self._deleted.is_set():
            with suppress(MissingReferenceError):
                await self._volumes.fill(await self._sources(), self._token)
                return
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _plan(self, container: Object) -> Plan:
        image = self._image(container)
        assert image is not None
        assert self.holder is not None
        security = (self.pod["spec"].get("securityContext") or {}) | (container.get("securityContext") or {})
        uid = security.get("runAsUser", image.user)
        if security.get("runAsNonRoot") and uid == 0:
            raise MissingReferenceError("container has runAsNonRoot and image will run as root")
        host, _, port = self._machine.api.access.server.removeprefix("https://").rpartition(":")
        base = {"HOME": "/", "KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, **image.environment}
        environment = environment_of(container, base, await self._sources())
        hosts = f"127.0.0.1 localhost\n{self.holder.address} {self.pod['metadata']['name']}\n"
        return Plan(
            pod_pid=self.holder.pid,
            scratch=str(self._folder / f"container-{container['name']}" / "root"),
            image_paths=tuple(str(path) for path in image.paths),
            mounts=self._volumes.mounts(container),
            files={"/etc/hosts": hosts},
            cwd=container.get("workingDir", image.workdir),
            readonly_root=bool(security.get("readOnlyRootFilesystem")),
            uid=uid,
            gid=security.get("runAsGroup", image.user),
            groups=tuple([*security.get("supplementalGroups", ()), *_some(security.get("fsGroup"))]),
            argv=arguments_of(container, image.entrypoint, image.arguments, environment),
            env=environment,
        )

    def _image(self, container: Object) -> Image | None:
        reference = container["image"]
        images = self._machine.images
        return images.get(reference) or images.get(reference.partition("@")[0].rpartition(":")[0])

    async def _sources(self) -> Sources:
        secrets, configs = await self._named("secrets"), await self._named("configmaps")
        assert self.holder is not None
        spec, metadata = self.pod["spec"], self.pod["metadata"]
        known = {f"metadata.{name}": metadata[name] for name in ("name", "namespace", "uid")}
        known |= {"spec.nodeName": spec["nodeName"], "spec.serviceAccountName": spec.get("serviceAccountName", "")}
        known |= {"status.podIP": self.holder.address, "status.podIPs": self.holder.address, "status.hostIP": GATEWAY}
        return Sources(self.pod, known=known, secrets=secrets, configs=configs)

    async def _named(self, kind: str) -> dict[str, Object]:
        """All of the namespace. Raises: MissingReferenceError: the API server is away."""
        path = f"/api/v1/namespaces/{self.pod['metadata']['namespace']}/{kind}"
        try:
            return {one["metadata"]["name"]: one for one in await self._machine.api.items(path)}
        except (aiohttp.ClientError, TimeoutError, ApiError) as error:
            raise MissingReferenceError(f"failed to sync {kind}: {error!r}") from error

    async def _token(self, wanted: Mapping[str, Any]) -> str:
        metadata = self.pod["metadata"]
        account = self.pod["spec"].get("serviceAccountName", "default")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        asked = {"expirationSeconds": wanted.get("expirationSeconds", 3600), "boundObjectRef": bound}
        if "audience" in wanted:
            asked["audiences"] = [wanted["audience"]]
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        try:
            granted = await self._machine.api.create(path, {"spec": asked})
        except (aiohttp.ClientError, TimeoutError, ApiError) as error:
            raise MissingReferenceError(f"failed to fetch token: {error!r}") from error
        return str(granted["status"]["token"])

    async def _stop(self, living: "asyncio.Task[None]") -> None:
        everyone = [*self._init, *self._containers]
        await asyncio.gather(*(one.stop(_grace_s(self.pod)) for one in everyone))
        await asyncio.wait({living})  # what had not started yet does not start any more

    def _phase(self) -> str:
        if self._refused or any(one.exit_code for one in self._init):
            return "Failed"
        codes = [one.exit_code for one in self._containers]
        if all(code is not None for code in codes):
            return "Failed" if any(codes) else "Succeeded"
        if self._deleted.is_set() and not any("running" in one.state for one in (*self._init, *self._containers)):
            return "Failed"
        return "Running" if any(one.has_run for one in self._containers) else "Pending"

    async def _keep_telling(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._tell()

    async def _tell(self) -> None:
        await self._until_heard(self._write_status)

    async def _write_status(self) -> None:
        status = self._status.build(
            phase=self._phase(),
            address=self.holder.address if self.holder is not None else "",
            is_initialized=self._is_initialized,
            containers=[one.status() for one in self._containers],
            init_containers=[one.status() for one in self._init],
            reason="NotSupported" if self._refused else "",
            message=self._refused,
        )
        if json.dumps(status) != json.dumps(self._told):
            change = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": status}
            await self._machine.api.patch(f"{self._path}/status", change, STRATEGIC)
            self._told = status

    async def _delete(self) -> None:
        await self._machine.api.delete(
            self._path, gracePeriodSeconds=0, preconditions={"uid": self.pod["metadata"]["uid"]}
        )

    async def _until_heard(self, say: Any) -> None:
        """An API server that is away is waited for; one that knows no such pod any more has heard."""
        while True:
            try:
                await say()
            except ApiError as error:
                if error.status in (404, 409):
                    return
            except (aiohttp.ClientError, TimeoutError):
                pass
            else:
                return
            await asyncio.sleep(_TRY_AGAIN_S)


def _grace_s(pod: Object) -> float:
    return float(
        pod["metadata"].get("deletionGracePeriodSeconds", pod["spec"].get("terminationGracePeriodSeconds", 30))
    )


def _some(value: int | None) -> list[int]:
    return [] if value is None else [value]
