"""A pod's status as a kubelet writes it."""

from datetime import UTC, datetime

from harness.kube.environment import Object

_OURS = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class PodStatus:
    """Remembers since when each condition is as it is. Conditions of others are left to them."""

    def __init__(self, host: str) -> None:
        self._host, self._started = host, now_text()
        self._conditions: dict[str, Object] = {}

    def build(
        self,
        *,
        phase: str,
        address: str,
        is_initialized: bool,
        containers: list[Object],
        init_containers: list[Object],
        reason: str = "",
        message: str = "",
    ) -> Object:
        is_ready = phase == "Running" and is_initialized and all(one["ready"] for one in containers)
        holds = dict(zip(_OURS, (bool(address), is_initialized, is_ready, is_ready), strict=True))
        for kind, is_so in holds.items():
            self._set(kind, is_so, "PodCompleted" if phase == "Succeeded" else "ContainersNotReady")
        status: Object = {
            "phase": phase,
            "reason": reason,
            "message": message,
            "hostIP": self._host,
            "hostIPs": [{"ip": self._host}],
            "startTime": self._started,
            "conditions": list(self._conditions.values()),
            "containerStatuses": containers,
            "initContainerStatuses": init_containers,
        }
        if address:
            status |= {"podIP": address, "podIPs": [{"ip": address}]}
        return status

    def _set(self, kind: str, is_so: bool, reason: str) -> None:
        status = "True" if is_so else "False"
        if self._conditions.get(kind, {}).get("status") != status:
            why = {} if is_so else {"reason": reason}
            self._conditions[kind] = {"type": kind, "status": status, "lastTransitionTime": now_text(), **why}
