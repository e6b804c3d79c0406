"""The manifest of a node's pod: the template's, with what an agent needs laid over it. What the template says of its
own security, probes, spread and grace stays said; names below HOLDFAST_ and paths below /run/holdfast are ours."""

import hashlib
import json
from collections.abc import Mapping
from math import ceil
from typing import Any

from holdfast_operator.api import v1alpha1
from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, Metadata
from holdfast_operator.reconcile.agent_container import agent_container
from holdfast_operator.reconcile.volumes import volumes

Manifest = dict[str, Any]

# After the notice: an agent ends what it has begun, and the kubelet sees that it ended.
_MARGIN_S = 30
# Group of the files that a pod mounts, among them the job's secret, so that whoever it runs as can read them.
_GROUP = 65532
_KUEUE_LABELS = ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class")
_SPREAD_OVER = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def pod_manifest(job: ElasticJob, index: int) -> Manifest:
    spec = _pod_spec(job)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(job, index, _hash(spec)), "spec": spec}


def manifest_hash(job: ElasticJob) -> str:
    """Of what all pods of the job are made from by now."""
    return _hash(_pod_spec(job))


def _hash(spec: Manifest) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def _metadata(job: ElasticJob, index: int, digest: str) -> Manifest:
    meta, given = job.metadata, job.spec.template.get("metadata", {})
    return {
        "name": names.pod_name(meta.name, index),
        "namespace": meta.namespace,
        "labels": {
            **{key: value for key, value in meta.labels.items() if key in _KUEUE_LABELS},
            **given.get("labels", {}),
            "app.kubernetes.io/name": "holdfast",
            "app.kubernetes.io/instance": meta.name,
            "app.kubernetes.io/component": "node",
            "app.kubernetes.io/managed-by": names.FIELD_MANAGER,
            names.LABEL_JOB: meta.name,
            names.LABEL_NODE: str(index),
        },
        "annotations": {**given.get("annotations", {}), names.ANNOTATION_HASH: digest},
        "ownerReferences": [owner_reference(meta)],
    }


def owner_reference(job: Metadata) -> Manifest:
    """With it the control plane collects what belongs to a job that is gone."""
    return {
        "apiVersion": f"{v1alpha1.GROUP}/{v1alpha1.VERSION}",
        "kind": v1alpha1.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        # To hold a job's deletion up some clusters ask for rights to its finalizers, and nothing needs it held up.
        "blockOwnerDeletion": False,
    }


def _pod_spec(job: ElasticJob) -> Manifest:
    given: Mapping[str, Any] = job.spec.template.get("spec", {})
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [_spread(job, key) for key in _SPREAD_OVER],
        **given,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _grace_s(job),
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": _GROUP,
            "seccompProfile": {"type": "RuntimeDefault"},
            **given.get("securityContext", {}),
        },
        "containers": [
            agent_container(job, container) if container.get("name") == names.AGENT_CONTAINER else container
            for container in given["containers"]
        ],
        "volumes": [*given.get("volumes", []), *volumes(job)],
    }


def _grace_s(job: ElasticJob) -> int:
    """A node that is told to end has as long as one that gets notice, and then some."""
    given = job.spec.template.get("spec", {}).get("terminationGracePeriodSeconds", 0)
    return max(int(given), ceil(job.spec.preemption.notice) + _MARGIN_S)


def _spread(job: ElasticJob, key: str) -> Manifest:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {names.LABEL_JOB: job.metadata.name}},
    }
