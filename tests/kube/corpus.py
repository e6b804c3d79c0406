"""Wrong manifests: each is right but for one thing, and must be refused with words that name it.

`by` tells who can refuse it: `schema`, the CRD's types, bounds and patterns; `strict`, what the API server looks for
beside that: fields that are not there, one thing twice; `rule`, the CRD's CEL; `change`, its CEL over what was there
before; `condition`, nobody before the operator, an agent or the scheduler looks at it, so that a condition must tell.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Literal

Refuser = Literal["schema", "strict", "rule", "change", "condition"]

BASE: dict[str, Any] = {
    "apiVersion": "holdfast.dev/v1alpha1",
    "kind": "ElasticJob",
    "metadata": {"name": "wrong", "namespace": "default"},
    "spec": {
        "program": {"entry": "examples/gpt/gpt.py:program", "params": {"width": 96, "sizes": {"heads": 4}}},
        "steps": 40,
        "nodes": {"min": 2, "max": 4, "desired": 3},
        "rendezvous": {"endpoints": ["etcd:2379"]},
        "template": {"spec": {"containers": [{"name": "holdfast", "image": "holdfast-worker:0.1.0"}]}},
    },
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """`patch` (a merge patch, RFC 7386) makes `BASE` wrong; of a change, `before` makes what it is a change of."""

    name: str
    patch: Mapping[str, Any]
    field: str  # that the refusal names
    words: str  # that it holds beside; of a condition, its message
    by: Refuser
    before: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """What is refused."""
        return merged(self.original(), deepcopy(self.patch))

    def original(self) -> dict[str, Any]:
        """Right; a change begins from it."""
        return merged(deepcopy(BASE), self.before)


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """RFC 7386: null takes a field away."""
    result = dict(target)
    for key, value in patch.items():
        below = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _in_spec(
    name: str, patch: Mapping[str, Any], path: str, words: str, by: Refuser, before: Mapping[str, Any] | None = None
) -> Wrong:
    return Wrong(
        name=name, patch={"spec": patch}, field=f"spec.{path}", words=words, by=by, before={"spec": before or {}}
    )


def _agent(**fields: Any) -> dict[str, Any]:
    """A patch of the template: its agent's container has these fields."""
    return {"template": {"spec": {"containers": [{"name": "holdfast", "image": "worker", **fields}]}}}


def _by_schema() -> Iterator[Wrong]:
    def wrong(name: str, patch: Mapping[str, Any], path: str, words: str) -> Wrong:
        return _in_spec(name, patch, path, words, "schema")

    yield Wrong(
        name="a dot in the name",
        patch={"metadata": {"name": "gpt.v2"}},
        field="metadata.name",
        words="match",
        by="schema",
    )
    yield Wrong(
        name="a name too long for its pods",
        patch={"metadata": {"name": "a" * 55}},
        field="metadata.name",
        words="54",
        by="schema",
    )
    yield Wrong(name="no spec", patch={"spec": None}, field="spec", words="equired", by="schema")
    yield wrong("an entry without a function", {"program": {"entry": "gpt.py"}}, "program.entry", "match")
    yield wrong("an entry that is no text", {"program": {"entry": 3}}, "program.entry", "string")
    yield wrong("params that are a list", {"program": {"params": ["--width", "96"]}}, "program.params", "object")
    yield wrong("no step at all", {"steps": 0}, "steps", "greater than 0")
    yield wrong("steps in words", {"steps": "many"}, "steps", "integer")
    yield wrong("half a step", {"steps": 1.5}, "steps", "integer")
    yield wrong("an empty command", {"program": None, "steps": None, "command": []}, "command", "at least 1")
    yield wrong("a batch of nothing", {"batch": {"size": 0}}, "batch.size", "greater than or equal to 1")
    yield wrong("a reduction that there is not", {"reduction": "ring"}, "reduction", "canonical")
    yield wrong("a device that there is not", {"device": "tpu"}, "device", "cuda")
    yield wrong("no nodes", {"nodes": None}, "nodes", "equired")
    yield wrong("no most nodes", {"nodes": {"max": None}}, "nodes.max", "equired")
    yield wrong("zero nodes wanted", {"nodes": {"desired": 0}}, "nodes.desired", "greater than or equal to 1")
    yield wrong("more nodes than are sane", {"nodes": {"max": 1_000_000}}, "nodes.max", "10000")
    yield wrong("no slots", {"slotsPerNode": 0}, "slotsPerNode", "greater than or equal to 1")
    yield wrong("memory by a unit of its own", {"layout": {"memoryPerSlot": "8 gigs"}}, "layout.memoryPerSlot", "match")
    yield wrong("a lease of no time", {"timeouts": {"leaseTtl": 0}}, "timeouts.leaseTtl", "greater than 0")
    yield wrong("a rendezvous nowhere", {"rendezvous": {"endpoints": []}}, "rendezvous.endpoints", "at least 1")
    yield wrong("no rendezvous", {"rendezvous": None}, "rendezvous", "equired")
    yield wrong(
        "an endpoint without its port", {"rendezvous": {"endpoints": ["etcd"]}}, "rendezvous.endpoints[0]", "match"
    )
    yield wrong(
        "an endpoint as a URL", {"rendezvous": {"endpoints": ["http://etcd:2379"]}}, "rendezvous.endpoints[0]", "match"
    )
    yield wrong("a prefix with an empty part", {"rendezvous": {"prefix": "a//b"}}, "rendezvous.prefix", "match")
    yield wrong("a Secret without its name", {"rendezvous": {"tlsSecret": {}}}, "rendezvous.tlsSecret.name", "equired")
    yield wrong(
        "a Secret of another namespace",
        {"state": {"credentialsSecret": {"name": "other/s3"}}},
        "state.credentialsSecret.name",
        "match",
    )
    yield wrong("state in a folder of the pod", {"state": {"url": "/tmp/state"}}, "state.url", "match")
    yield wrong("a token in the state's URL", {"state": {"url": "s3://bucket/job?token=x"}}, "state.url", "match")
    yield wrong(
        "checkpoints at every step but none",
        {"state": {"checkpointEvery": 0}},
        "state.checkpointEvery",
        "greater than or equal to 1",
    )
    yield wrong("copies below none", {"state": {"copies": -1}}, "state.copies", "greater than or equal to 0")
    yield wrong(
        "a taint with its effect",
        {"preemption": {"noticeTaints": ["gone:NoSchedule"]}},
        "preemption.noticeTaints[0]",
        "match",
    )
    yield wrong("a notice in the past", {"preemption": {"notice": -5}}, "preemption.notice", "greater than 0")
    yield wrong(
        "fewer failures than none",
        {"restartPolicy": {"maxFailures": -1}},
        "restartPolicy.maxFailures",
        "greater than or equal to 0",
    )
    yield wrong(
        "an end before the beginning",
        {"activeDeadlineSeconds": 0},
        "activeDeadlineSeconds",
        "greater than or equal to 1",
    )
    yield wrong("a half-hearted suspend", {"suspend": "yes"}, "suspend", "boolean")
    yield wrong("a manager without a domain", {"managedBy": "kueue"}, "managedBy", "match")
    yield wrong("no template", {"template": None}, "template", "equired")
    yield wrong(
        "a template of no containers",
        {"template": {"spec": {"containers": []}}},
        "template.spec.containers",
        "at least 1",
    )
    yield wrong(
        "pods that restart themselves",
        {"template": {"spec": {"restartPolicy": "OnFailure"}}},
        "template.spec.restartPolicy",
        "Never",
    )
    yield wrong(
        "a number as an environment variable",
        _agent(env=[{"name": "OMP_NUM_THREADS", "value": 1}]),
        "template.spec.containers[0].env[0].value",
        "string",
    )
    yield wrong(
        "a container without a name",
        {"template": {"spec": {"containers": [{"image": "worker"}]}}},
        "template.spec.containers[0].name",
        "equired",
    )


def _by_strictness() -> Iterator[Wrong]:
    yield _in_spec("a field by its name in Python", {"slots_per_node": 2}, "slots_per_node", "unknown field", "strict")
    yield _in_spec("a field misspelt", {"nodes": {"maximum": 4}}, "nodes.maximum", "unknown field", "strict")
    yield _in_spec("a field in the wrong section", {"url": "s3://bucket/job"}, "url", "unknown field", "strict")
    twice = {"rendezvous": {"endpoints": ["etcd:2379", "etcd:2379"]}}
    yield _in_spec("an endpoint twice", twice, "rendezvous.endpoints", "etcd:2379", "strict")


def _by_rule() -> Iterator[Wrong]:
    def wrong(name: str, patch: Mapping[str, Any], path: str, words: str) -> Wrong:
        return _in_spec(name, patch, path, words, "rule")

    yield wrong("nothing to train", {"program": None, "steps": None}, "program", "command")
    yield wrong("a program and a command", {"command": ["python", "train.py"]}, "command", "program")
    yield wrong("a program without an end", {"steps": None}, "steps", "how many steps")
    yield wrong("a command with steps", {"program": None, "command": ["train"]}, "steps", "command")
    yield wrong(
        "a command with a batch",
        {"program": None, "steps": None, "command": ["train"], "batch": {"size": 8}},
        "batch",
        "command",
    )
    yield wrong("a batch that is no multiple", {"batch": {"size": 50, "microbatch": 6}}, "batch.size", "multiple")
    yield wrong(
        "blocks that do not fill the batch", {"batch": {"size": 48, "microbatch": 6, "block": 3}}, "batch.size", "block"
    )
    yield wrong("fewer at most than at least", {"nodes": {"min": 5, "desired": None}}, "nodes.max", "min")
    yield wrong("fewer wanted than needed", {"nodes": {"desired": 1}}, "nodes.desired", "min")
    yield wrong("more wanted than may be", {"nodes": {"desired": 5}}, "nodes.desired", "max")
    yield wrong(
        "an orphan that ends before its lease",
        {"timeouts": {"leaseTtl": 10, "orphan": 5}},
        "timeouts.orphan",
        "leaseTtl",
    )
    yield wrong(
        "a port that there is not", {"rendezvous": {"endpoints": ["etcd:99999"]}}, "rendezvous.endpoints", "65535"
    )
    yield wrong(
        "a password in the state's URL",
        {"state": {"url": "s3://key:secret@bucket/job"}},
        "state.url",
        "credentialsSecret",
    )
    yield wrong("state that dies with its process", {"state": {"url": "memory://job"}}, "state.url", "outlives")
    yield wrong(
        "a back-off above its bound",
        {"restartPolicy": {"backoff": 60, "backoffMax": 30}},
        "restartPolicy.backoffMax",
        "backoff",
    )
    yield wrong(
        "a template without the agent",
        {"template": {"spec": {"containers": [{"name": "worker"}]}}},
        "template.spec.containers",
        "holdfast",
    )
    yield wrong("an agent with a command", _agent(command=["sleep", "9"]), "template.spec.containers", "spec.command")
    yield wrong("an agent with arguments", _agent(args=["--help"]), "template.spec.containers", "spec.command")
    yield wrong(
        "an agent under another name",
        _agent(env=[{"name": "HOLDFAST_NODE", "value": "me"}]),
        "template.spec.containers",
        "HOLDFAST_NODE",
    )
    yield wrong(
        "a volume over the operator's",
        _agent(volumeMounts=[{"name": "mine", "mountPath": "/run/holdfast/secret"}]),
        "template.spec.containers",
        "/run/holdfast",
    )


def _by_change() -> Iterator[Wrong]:
    def wrong(name: str, patch: Mapping[str, Any], path: str, before: Mapping[str, Any] | None = None) -> Wrong:
        return _in_spec(name, patch, path, "fixed", "change", before)

    s3 = {"state": {"url": "s3://bucket/job"}}
    yield wrong("another program", {"program": {"entry": "other.py:program"}}, "program")
    yield wrong("another param", {"program": {"params": {"width": 128}}}, "program")
    yield wrong("a param under another name", {"program": {"params": {"width": None, "depth": 96}}}, "program")
    yield wrong("a param deep inside", {"program": {"params": {"sizes": {"heads": 8}}}}, "program")
    yield wrong("a command for a program", {"program": None, "steps": None, "command": ["train"]}, "program")
    yield wrong("more steps", {"steps": 50}, "steps")
    yield wrong("a batch given later", {"batch": {"size": 48}}, "batch")
    yield wrong("another reduction", {"reduction": "allreduce"}, "reduction")
    yield wrong("another device", {"device": "cpu"}, "device")
    yield wrong("fewer nodes at least", {"nodes": {"min": 1}}, "nodes.min")
    yield wrong("more nodes at most", {"nodes": {"max": 8}}, "nodes.max")
    yield wrong("more slots", {"slotsPerNode": 2}, "slotsPerNode")
    yield wrong("a depth given later", {"layout": {"depth": 2}}, "layout")
    yield wrong("longer leases", {"timeouts": {"leaseTtl": 9}}, "timeouts")
    yield wrong("another etcd", {"rendezvous": {"endpoints": ["other:2379"]}}, "rendezvous")
    yield wrong("TLS given later", {"rendezvous": {"tlsSecret": {"name": "etcd-tls"}}}, "rendezvous")
    yield wrong("state given later", s3, "state.url")
    yield wrong("state taken away", {"state": {"url": None}}, "state.url", s3)
    yield wrong("state elsewhere", {"state": {"url": "s3://bucket/other"}}, "state.url", s3)
    yield wrong("fewer checkpoints", {"state": {"checkpointEvery": 500}}, "state.checkpointEvery")
    yield wrong("a manager given later", {"managedBy": "kueue.x-k8s.io/multikueue"}, "managedBy")
    yield wrong("a manager taken away", {"managedBy": None}, "managedBy", {"managedBy": "holdfast.dev/operator"})


def _by_condition() -> Iterator[Wrong]:
    """The fields here are those of the pod or of the runtime that the condition's message names."""

    def wrong(
        name: str, patch: Mapping[str, Any], path: str, words: str, before: Mapping[str, Any] | None = None
    ) -> Wrong:
        return _in_spec(name, patch, path, words, "condition", before)

    yield wrong(
        "a container without an image",
        {"template": {"spec": {"containers": [{"name": "holdfast"}]}}},
        "template.spec.containers[0].image",
        "image",
    )
    yield wrong(
        "a quantity in words",
        _agent(resources={"requests": {"cpu": "lots"}}),
        "template.spec.containers[0].resources",
        "quantit",
    )
    yield wrong(
        "a mount of no volume",
        _agent(volumeMounts=[{"name": "data", "mountPath": "/data"}]),
        "template.spec.containers[0].volumeMounts[0].name",
        "data",
    )
    yield wrong(
        "a label that is none",
        {"template": {"metadata": {"labels": {"team": "a team"}}}},
        "template.metadata.labels",
        "a team",
    )
    yield wrong(
        "a service account that there is not",
        {"template": {"spec": {"serviceAccountName": "nobody"}}},
        "template.spec.serviceAccountName",
        "nobody",
    )
    yield wrong(
        "a priority that there is not",
        {"template": {"spec": {"priorityClassName": "utmost"}}},
        "template.spec.priorityClassName",
        "utmost",
    )
    yield wrong(
        "a node that there is not",
        {"template": {"spec": {"nodeSelector": {"disk": "golden"}}}},
        "template.spec.nodeSelector",
        "unschedulable",
    )
    yield wrong(
        "an image that there is not",
        _agent(image="registry.invalid/nothing:none"),
        "template.spec.containers[0].image",
        "ImagePull",
    )
    yield wrong(
        "a Secret that there is not",
        {"rendezvous": {"tlsSecret": {"name": "not-there"}}},
        "rendezvous.tlsSecret",
        "not-there",
    )
    yield wrong(
        "a program that there is not", {"program": {"entry": "missing.py:program"}}, "program.entry", "missing.py"
    )
    yield wrong("a param that the program has not", {"program": {"params": {"widht": 96}}}, "program.params", "widht")
    yield wrong("a storage that nobody knows", {"state": {"url": "nowhere://bucket/job"}}, "state.url", "nowhere")


CORPUS: tuple[Wrong, ...] = (*_by_schema(), *_by_strictness(), *_by_rule(), *_by_change(), *_by_condition())
