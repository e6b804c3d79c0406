"""One container of a pod, through all its restarts: what its status tells, when it is ready, how it is stopped."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from harness.kube.containers import Plan, Running, StartError, start_container
from harness.kube.environment import MissingReferenceError, Object
from harness.kube.pod_status import now_text
from harness.kube.probes import ask, keep_asking

_TRY_AGAIN_S = 0.5
# The kubelet's own begins with 10 s; tests have no such time.
_BACKOFF_S, _BACKOFF_MAX_S = 1.0, 300.0
_MESSAGE_MAX, _LOG_MESSAGE_MAX = 4096, 2048


class ContainerLife:
    """`plan` is asked before every start; `changed` is called whenever the status is another."""

    def __init__(
        self,
        spec: Object,
        folder: Path,
        *,
        restarts: bool | None,
        plan: Callable[[Object], Awaitable[Plan]],
        changed: Callable[[], None],
    ) -> None:
        """`restarts`: always, never, or (None) only where it failed."""
        self.spec, self.folder = spec, folder
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.is_ready = self.is_started = False
        self.address = ""
        self.restart_count = 0
        self._restarts, self._plan, self._changed = restarts, plan, changed
        self._last_state: Object = {}
        self._running: Running | None = None
        self._stopping = asyncio.Event()
        folder.mkdir(parents=True)

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or will run again."""
        ended = self.state.get("terminated")
        return None if ended is None else int(ended["exitCode"])

    @property
    def has_run(self) -> bool:
        return "waiting" not in self.state or self.restart_count > 0

    def log(self, *, previous: bool = False) -> Path:
        return self.folder / f"{self.restart_count - previous}.log"

    def status(self) -> Object:
        return {
            "name": self.spec["name"],
            "image": self.spec["image"],
            "imageID": "",
            "containerID": f"test://{self.folder.parent.name}/{self.spec['name']}/{self.restart_count}",
            "state": self.state,
            "lastState": self._last_state,
            "ready": self.is_ready,
            "started": self.is_started,
            "restartCount": self.restart_count,
        }

    def wait_for(self, reason: str, message: str = "") -> None:
        """It does not run yet, or not again."""
        self.state = {"waiting": {"reason": reason, "message": message}}
        self._changed()

    async def run(self) -> None:
        """Until it is over, as its restart policy says."""
        pause_s = _BACKOFF_S
        while True:
            code = await self._once()
            if self._stopping.is_set() or self._restarts is False or (self._restarts is None and code == 0):
                return
            self._last_state = self.state
            message = f"back-off {pause_s:g}s restarting failed container={self.spec['name']}"
            self.wait_for("CrashLoopBackOff", message)
            if await self._stopped_within(pause_s):
                self.state = self._last_state
                return
            self.restart_count += 1
            pause_s = min(2 * pause_s, _BACKOFF_MAX_S)

    async def stop(self, grace_s: float) -> None:
        """Its hook, SIGTERM, and at the end of its grace SIGKILL. Called again with less it hurries."""
        self._stopping.set()
        if self._running is not None:
            await self._terminate(self._running, grace_s)

    def crash(self) -> None:
        """Its processes are killed from outside; what follows is up to its restart policy."""
        if self._running is not None:
            self._running.signal(signal.SIGKILL)

    def kill(self) -> None:
        """At once, and nothing is waited for."""
        self._stopping.set()
        self.crash()

    async def end(self) -> None:
        """At once, and over when this returns, whoever else waits for it or gave up waiting."""
        self.kill()
        if self._running is not None:
            await self._running.wait()

    async def _once(self) -> int:
        plan = await self._planned()
        if plan is None:
            return self._ended(137, "the pod was deleted before it started")
        message = self.folder / "termination-log"
        message.write_bytes(b"")
        message.chmod(0o666)
        path = self.spec.get("terminationMessagePath", "/dev/termination-log")
        plan.mounts.append({"source": str(message), "target": path, "readonly": False})
        started = now_text()
        try:
            self._running = await start_container(plan, self.folder, self.log())
        except StartError as error:
            return self._ended(128, str(error), "StartError")
        if self._stopping.is_set():
            self._running.signal(signal.SIGKILL)
        self.state = {"running": {"startedAt": started}}
        self.is_started = "startupProbe" not in self.spec
        self.is_ready = self.is_started and "readinessProbe" not in self.spec
        self._changed()
        asking = asyncio.create_task(self._look_after(self._running), name=f"probes of {self.spec['name']}")
        try:
            code = await self._running.wait()
        finally:
            asking.cancel()
            await asyncio.wait([asking])
        self._running = None
        if not asking.cancelled():
            asking.result()
        return self._ended(code, self._last_words(message, code), started=started)

    async def _planned(self) -> Plan | None:
        """None: stopped before everything it refers to was there."""
        while not self._stopping.is_set():
            try:
                return await self._plan(self.spec)
            except MissingReferenceError as error:
                self.wait_for("CreateContainerConfigError", str(error))
            await self._stopped_within(_TRY_AGAIN_S)
        return None

    def _ended(self, code: int, message: str, reason: str = "", started: str | None = None) -> int:
        reason = reason or ("Completed" if code == 0 else "Error")
        times = {"startedAt": started or now_text(), "finishedAt": now_text()}
        self.state = {"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}
        self.is_ready = self.is_started = False
        self._changed()
        return code

    def _last_words(self, message: Path, code: int) -> str:
        told = message.read_bytes()[:_MESSAGE_MAX].decode(errors="replace")
        if told or code == 0 or self.spec.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            return told
        return self.log().read_bytes()[-_LOG_MESSAGE_MAX:].decode(errors="replace")

    async def _look_after(self, running: Running) -> None:
        """Hook and probes; for as long as it runs."""
        hook = self.spec.get("lifecycle", {}).get("postStart")
        if hook is not None and await self._ask(hook, running, None):
            await self._terminate(running, self._grace_s())
        if "startupProbe" in self.spec:
            await self._keep_asking("startupProbe", running)
        async with asyncio.TaskGroup() as group:
            for kind in ("readinessProbe", "livenessProbe"):
                if kind in self.spec:
                    group.create_task(self._keep_asking(kind, running))

    async def _keep_asking(self, kind: str, running: Running) -> None:
        probe = self.spec[kind]

        async def tell(is_well: bool) -> bool:
            if kind == "readinessProbe" and is_well is not self.is_ready:
                self.is_ready = is_well
                self._changed()
            elif kind == "startupProbe" and is_well:
                self.is_started = True
                self.is_ready = "readinessProbe" not in self.spec
                self._changed()
                return True
            elif kind != "readinessProbe" and not is_well:
                await self._terminate(running, probe.get("terminationGracePeriodSeconds", self._grace_s()))
            return False

        await keep_asking(probe, lambda timeout_s: self._ask(probe, running, timeout_s), tell)

    async def _ask(self, handler: Object, running: Running, timeout_s: float | None) -> str:
        known = {key: value for key, value in handler.items() if key in ("exec", "httpGet", "tcpSocket", "sleep")}
        return await ask(known, self.spec, running, self.address, timeout_s)

    async def _terminate(self, running: Running, grace_s: float) -> None:
        ended = asyncio.create_task(running.wait())
        try:
            async with asyncio.timeout(grace_s):
                hook = self.spec.get("lifecycle", {}).get("preStop")
                if hook is not None and grace_s > 0:
                    await self._ask(hook, running, None)
                running.signal(signal.SIGTERM)
                await asyncio.shield(ended)
        except TimeoutError:
            running.signal(signal.SIGKILL)
        await ended

    async def _stopped_within(self, pause_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    def _grace_s(self) -> float:
        return float(self.spec.get("terminationGracePeriodSeconds", 30))
