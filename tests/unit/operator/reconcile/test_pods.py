"""A pod has what an agent needs, as safely as can be, and what the template says of it."""

from typing import Any

import pytest

from harness.reconciling.jobs import job
from holdfast_operator.api.v1alpha1 import names
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.reconcile.pods import pod_manifest

SECRETS = {
    "rendezvous": {
        "endpoints": ["a:2379", "b:2379"],
        "prefix": "ml",
        "tls_secret": {"name": "etcd-tls"},
        "credentials_secret": {"name": "etcd-user"},
    },
    "state": {"url": "s3://bucket/gpt/", "credentials_secret": {"name": "s3"}},
}


def templated(
    pod: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None, **container: Any
) -> ElasticJob:
    """A job whose template says this."""
    held = {"name": "holdfast", "image": "trainer", **container}
    return job(template={"metadata": metadata or {}, "spec": {**(pod or {}), "containers": [held]}})


def agent(of: ElasticJob) -> dict[str, Any]:
    containers: list[dict[str, Any]] = pod_manifest(of, 0)["spec"]["containers"]
    return next(container for container in containers if container["name"] == "holdfast")


def environment(of: ElasticJob) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in agent(of)["env"]}


def test_an_agent_is_configured_by_its_environment() -> None:
    of = job()
    env = environment(of)

    assert agent(of)["command"] == ["holdfast", "agent"]
    assert env == {
        "POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "HOLDFAST_NODE": {"fieldRef": {"fieldPath": "metadata.name"}},
        "HOLDFAST_DOMAIN": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        "HOLDFAST_JOB": "gpt-6c1f0f6e",
        "HOLDFAST_STORE": "etcd://etcd:2379/holdfast/ml",
        "HOLDFAST_ADDRESS": "[$(POD_IP)]:4710",
        "HOLDFAST_HEALTH": "[$(POD_IP)]:4711",
        "HOLDFAST_LOG": "json",
        "HOLDFAST_SECRET_FILE": "/run/holdfast/secret/secret",
        "HOLDFAST_TERMINATION_LOG": "/dev/termination-log",
        "HOLDFAST_SUBMIT": "/run/holdfast/job/spec.yaml",
        "OMP_NUM_THREADS": "1",
    }
    assert next(iter(env)) == "POD_IP", "what refers to another comes after it"


def test_credentials_come_from_secrets_alone() -> None:
    of = job(**SECRETS)
    env = environment(of)

    assert env["HOLDFAST_STORE"] == "etcds://a:2379,b:2379/ml/ml"
    assert env["HOLDFAST_STORE_TLS"] == "/run/holdfast/store-tls"
    assert env["HOLDFAST_STORE_PASSWORD_FILE"] == "/run/holdfast/store-user/password"
    assert env["HOLDFAST_STORE_USER"] == {"secretKeyRef": {"name": "etcd-user", "key": "username"}}
    assert env["HOLDFAST_OUT"] == "s3://bucket/gpt/weights"
    assert agent(of)["envFrom"] == [{"secretRef": {"name": "s3"}}]
    secrets = {
        volume["secret"]["secretName"]: volume["secret"]["defaultMode"]
        for volume in pod_manifest(of, 0)["spec"]["volumes"]
        if "secret" in volume
    }
    assert secrets == dict.fromkeys(("gpt-holdfast", "etcd-tls", "etcd-user", "s3"), 0o440)


def test_the_templates_environment_stays_and_cannot_stand_in_for_ours() -> None:
    given = [{"name": "OMP_NUM_THREADS", "value": "8"}, {"name": "HOLDFAST_RAM", "value": "/ram"}]
    env = environment(templated(env=given))

    assert (env["OMP_NUM_THREADS"], env["HOLDFAST_RAM"]) == ("8", "/ram")
    names_of_all = [entry["name"] for entry in agent(templated(env=[*given, {"name": "POD_IP", "value": "x"}]))["env"]]
    assert len(names_of_all) == len(set(names_of_all))


def test_the_template_may_say_where_the_final_weights_go() -> None:
    container = {"name": "holdfast", "image": "trainer", "env": [{"name": "HOLDFAST_OUT", "value": "/shared/out"}]}
    of = job(state={"url": "s3://bucket/gpt"}, template={"spec": {"containers": [container]}})

    assert environment(of)["HOLDFAST_OUT"] == "/shared/out"


def test_a_pod_runs_with_as_few_rights_as_it_can() -> None:
    spec, container = pod_manifest(job(), 0)["spec"], agent(job())

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_what_the_template_says_of_rights_stays_said() -> None:
    of = templated(
        {"securityContext": {"runAsUser": 7, "fsGroup": 8}}, securityContext={"readOnlyRootFilesystem": False}
    )
    spec = pod_manifest(of, 0)["spec"]

    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"]) == (7, 8)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert agent(of)["securityContext"]["readOnlyRootFilesystem"] is False
    assert agent(of)["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize(
    ("limits", "source"), [({"memory": "8Gi"}, {"medium": "Memory", "sizeLimit": "8Gi"}), ({}, {"medium": "Memory"})]
)
def test_shared_memory_is_as_large_as_the_container_may_be(limits: dict[str, str], source: dict[str, str]) -> None:
    of = templated(resources={"limits": limits})
    volume = next(v for v in pod_manifest(of, 0)["spec"]["volumes"] if v["name"] == "holdfast-shm")

    assert volume["emptyDir"] == source
    assert {"name": "holdfast-shm", "mountPath": "/dev/shm"} in agent(of)["volumeMounts"]


def test_every_mount_has_its_volume_and_the_templates_own_wins_at_its_path() -> None:
    of = templated(
        {"volumes": [{"name": "fast", "emptyDir": {}}]}, volumeMounts=[{"name": "fast", "mountPath": "/tmp/"}]
    )
    mounts = agent(of)["volumeMounts"]
    volumes = [volume["name"] for volume in pod_manifest(of, 0)["spec"]["volumes"]]

    assert {mount["name"] for mount in mounts} == set(volumes)
    assert [mount["name"] for mount in mounts if mount["mountPath"].rstrip("/") == "/tmp"] == ["fast"]


@pytest.mark.parametrize(
    ("given", "notice", "grace_s"), [(None, 25.0, 55), (10, 25.0, 55), (600, 25.0, 600), (None, 119.5, 150)]
)
def test_a_pod_has_more_time_to_end_than_a_notice_gives(given: int | None, notice: float, grace_s: int) -> None:
    of = templated({"terminationGracePeriodSeconds": given} if given is not None else {})
    of = of.model_copy(
        update={"spec": of.spec.model_copy(update={"preemption": job(preemption={"notice": notice}).spec.preemption})}
    )

    assert pod_manifest(of, 0)["spec"]["terminationGracePeriodSeconds"] == grace_s


def test_probes_ask_the_agent() -> None:
    container = agent(job())

    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": names.HEALTH_PORT}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": names.HEALTH_PORT}
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] == 600
    own = {"exec": {"command": ["true"]}}
    assert agent(templated(livenessProbe=own))["livenessProbe"] == own


def test_a_command_of_the_jobs_own_runs_in_the_same_environment_without_probes() -> None:
    of = job(program=None, steps=None, command=["./run.sh", "--fast"])
    container = agent(of)

    assert container["command"] == ["./run.sh", "--fast"]
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & container.keys()
    assert "HOLDFAST_JOB" in environment(of)
    assert "HOLDFAST_SUBMIT" not in environment(of)


def test_pods_are_spread_unless_the_template_says_how() -> None:
    spread = pod_manifest(job(), 0)["spec"]["topologySpreadConstraints"]

    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}
    assert pod_manifest(templated({"topologySpreadConstraints": []}), 0)["spec"]["topologySpreadConstraints"] == []


def test_labels_are_the_templates_kueues_and_ours() -> None:
    of = templated(metadata={"labels": {"team": "vision", names.LABEL_JOB: "another"}, "annotations": {"note": "x"}})
    labels = {"kueue.x-k8s.io/queue-name": "gpus", "private": "yes"}
    of = of.model_copy(update={"metadata": of.metadata.model_copy(update={"labels": labels})})
    metadata = pod_manifest(of, 3)["metadata"]

    assert (metadata["name"], metadata["namespace"]) == ("gpt-3", "ml")
    assert metadata["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpus",
        "team": "vision",
        "app.kubernetes.io/name": "holdfast",
        "app.kubernetes.io/instance": "gpt",
        "app.kubernetes.io/component": "node",
        "app.kubernetes.io/managed-by": "holdfast-operator",
        "holdfast.dev/job": "gpt",
        "holdfast.dev/node-index": "3",
    }
    assert metadata["annotations"]["note"] == "x"
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "ElasticJob",
            "name": "gpt",
            "uid": of.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


def test_pods_made_of_the_same_have_the_same_hash_and_others_another() -> None:
    def hash_of(of: ElasticJob, index: int) -> str:
        annotations: dict[str, str] = pod_manifest(of, index)["metadata"]["annotations"]
        return annotations[names.ANNOTATION_HASH]

    assert hash_of(job(), 0) == hash_of(job(), 1) != hash_of(templated(image="other"), 0)


def test_other_containers_are_left_as_they_are() -> None:
    sidecar = {"name": "logs", "image": "fluent"}
    of = job(
        template={
            "spec": {"containers": [sidecar, {"name": "holdfast", "image": "trainer"}], "nodeSelector": {"a": "b"}}
        }
    )
    spec = pod_manifest(of, 0)["spec"]

    assert spec["containers"][0] == sidecar
    assert (spec["nodeSelector"], spec["restartPolicy"]) == ({"a": "b"}, "Never")
