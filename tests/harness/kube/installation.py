"""The operator as people install it: by the chart, with exactly the chart's rights, in pods of a node of its own."""

import json

from harness.kube.api import Object
from harness.kube.elastic import Cluster
from harness.kube.images import CHECKOUT
from harness.kube.kubelet import Kubelet
from harness.kube.pods import until
from harness.kube.tools import Tool

CHART = CHECKOUT / "charts" / "holdfast"
NODE = "system"
_ROLE = "example.org/system"


class Installation:
    """One release, which looks after one namespace, so that those of several tests do not meet."""

    name = "holdfast"

    def __init__(self, helm: Tool, kubelet: Kubelet, cluster: Cluster) -> None:
        self._helm, self._kubelet, self._cluster = helm, kubelet, cluster

    async def install(self, *, replicas: int = 1, **values: Object) -> None:
        """Back when its pods are ready; `values` are the chart's."""
        # Jobs' pods must find no place there.
        taint = {"key": _ROLE, "effect": "NoSchedule"}
        await self._kubelet.add(NODE, labels={_ROLE: "yes"}, taints=[taint])
        await self.apply(replicas=replicas, **values)
        await until(self.pods, lambda pods: sum(map(_is_ready, pods)) == replicas, "an operator that is ready")

    async def apply(self, *, replicas: int = 1, **values: Object) -> None:
        """`helm install`, and no node to run on."""
        made = {
            "crds": {"install": False},
            "watchNamespace": self._cluster.namespace,
            "image": {"tag": "test"},
            "replicas": replicas,
            "operator": {"progressSeconds": 1, "leaseSeconds": 3},
            "nodeSelector": {_ROLE: "yes"},
            "tolerations": [{"key": _ROLE, "operator": "Exists"}],
            **values,
        }
        await self._helm("install", self.name, str(CHART), "--values=-", told=json.dumps(made))

    async def pods(self) -> list[Object]:
        return await self._cluster.api.items(
            f"/api/v1/namespaces/{self._cluster.namespace}/pods", labelSelector="app.kubernetes.io/component=operator"
        )


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
