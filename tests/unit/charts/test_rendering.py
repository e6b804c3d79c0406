"""What the chart makes of values: safe pods, exactly the rights the operator needs, a CRD that is upgraded and kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from harness.chart import CHART, Manifest, OneKeyLoader, helm, named, only, pod_templates, rendered
from holdfast.spec import JobSpec
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobSpec
from holdfast_operator.main import app

VALUES = Path(__file__).parent / "values"
CASES = {"default": ()} | {path.stem: ("--values", str(path)) for path in sorted(VALUES.glob("*.yaml"))}
each_case = pytest.mark.parametrize("case", CASES)

# Everything that the operator may do. A change here is a change of what its holders are trusted with.
JOB_RIGHTS = {
    ("holdfast.dev", "elasticjobs"): {"list", "watch", "delete"},
    ("holdfast.dev", "elasticjobs/status"): {"patch"},
    ("", "pods"): {"list", "watch", "create", "delete"},
    ("", "secrets"): {"get", "create"},
    ("", "configmaps"): {"create", "patch"},
    ("", "events"): {"get", "create", "patch"},
}
NODE_RIGHTS = {("", "nodes"): {"list", "watch"}}


def rights(role: Manifest) -> dict[tuple[str, str], set[str]]:
    """By group and resource, of rules that name no object."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def crd_file() -> Manifest:
    text = (CHART / "files" / "elasticjobs.holdfast.dev.yaml").read_text(encoding="utf-8")
    return dict(yaml.load(text, OneKeyLoader))


@each_case
def test_the_linter_finds_nothing(case: str) -> None:
    answer = helm("lint", "--strict", "--quiet", str(CHART), *CASES[case])
    assert answer.returncode == 0, answer.stdout + answer.stderr


@each_case
def test_every_object_says_where_it_is_and_whose(case: str) -> None:
    without = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for manifest in rendered(*CASES[case]):
        assert ("namespace" in manifest["metadata"]) == (manifest["kind"] not in without), named(manifest)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "holdfast", named(manifest)


@each_case
def test_every_pod_runs_with_no_more_than_it_needs(case: str) -> None:
    for name, pod in pod_templates(rendered(*CASES[case])).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], name
        # A token only where the API server is spoken to.
        assert ("serviceAccountName" in spec) != (spec.get("automountServiceAccountToken") is False), name
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


@each_case
def test_every_image_is_a_certain_one(case: str) -> None:
    for name, pod in pod_templates(rendered(*CASES[case])).items():
        for container in pod["spec"]["containers"]:
            reference = container["image"].rpartition("/")[2]
            assert ":" in reference, f"{name}: {container['image']} has neither tag nor digest"
            assert not reference.endswith((":", ":latest")), name


@each_case
def test_every_selector_finds_the_chart_s_own_pods_and_no_job_s(case: str) -> None:
    manifests = rendered(*CASES[case])
    labels = [pod["metadata"]["labels"] for pod in pod_templates(manifests).values()]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", selector)
        if manifest["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget", "Service", "NetworkPolicy"}:
            if manifest["metadata"]["labels"]["app.kubernetes.io/component"] == "jobs":
                continue
            assert wanted, named(manifest)
            assert [one for one in labels if wanted.items() <= one.items()], named(manifest)
            assert "holdfast.dev/job" not in wanted, named(manifest)


def test_the_operator_has_exactly_the_rights_it_needs() -> None:
    manifests = rendered()
    assert rights(only(manifests, "ClusterRole", "ops-holdfast-operator")) == JOB_RIGHTS | NODE_RIGHTS
    leader = only(manifests, "Role", "holdfast-operator-leader")
    assert leader["metadata"]["namespace"] == "ops"
    assert leader["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["holdfast-operator"],
            "verbs": ["get", "update"],
        },
    ]
    bound = [one for one in manifests if one["kind"].endswith("RoleBinding") and "test" not in one["metadata"]["name"]]
    account = {"kind": "ServiceAccount", "name": "holdfast-operator", "namespace": "ops"}
    assert {one["roleRef"]["name"] for one in bound} == {"ops-holdfast-operator", "holdfast-operator-leader"}
    assert all(one["subjects"] == [account] for one in bound)


def test_an_operator_of_one_namespace_has_rights_in_no_other() -> None:
    manifests = rendered(*CASES["namespaced"])
    assert rights(only(manifests, "ClusterRole", "ops-holdfast-operator")) == NODE_RIGHTS
    role = only(manifests, "Role", "ops-holdfast-operator")
    assert role["metadata"]["namespace"] == "team-a"
    assert rights(role) == JOB_RIGHTS
    assert only(manifests, "RoleBinding", "ops-holdfast-operator")["metadata"]["namespace"] == "team-a"
    container = only(manifests, "Deployment", "holdfast-operator")["spec"]["template"]["spec"]["containers"][0]
    assert "--namespace=team-a" in container["args"]


def test_people_get_rights_on_jobs_by_the_roles_they_have() -> None:
    aggregated = "rbac.authorization.k8s.io/aggregate-to-"
    view = only(rendered(), "ClusterRole", "ops-holdfast-view")
    edit = only(rendered(), "ClusterRole", "ops-holdfast-edit")
    assert {one.removeprefix(aggregated) for one in view["metadata"]["labels"]} >= {"view", "edit", "admin"}
    assert f"{aggregated}view" not in edit["metadata"]["labels"]
    reading = {"get", "list", "watch"}
    assert all(verbs <= reading for verbs in rights(view).values())
    assert {group for group, _ in rights(view) | rights(edit)} == {"holdfast.dev"}
    # Only the operator says how a job fares.
    assert ("holdfast.dev", "elasticjobs/status") not in rights(edit)


def test_the_crd_is_the_generated_one_and_outlives_the_chart() -> None:
    shown = only(rendered(), "CustomResourceDefinition", "elasticjobs.holdfast.dev")
    expected = crd_file()
    annotations = shown["metadata"].pop("annotations")
    assert annotations.pop("helm.sh/resource-policy") == "keep"
    labels = shown["metadata"].pop("labels")
    assert labels["app.kubernetes.io/instance"] == "holdfast"
    assert annotations == expected["metadata"].pop("annotations", {})
    assert shown == expected
    assert not (CHART / "crds").exists(), "Helm never upgrades what lies in crds/"


def test_the_crd_can_be_left_to_others_or_go_with_the_chart() -> None:
    kinds = {one["kind"] for one in rendered("--set", "crds.install=false")}
    assert "CustomResourceDefinition" not in kinds
    shown = only(rendered("--set", "crds.keep=false"), "CustomResourceDefinition", "elasticjobs.holdfast.dev")
    assert "helm.sh/resource-policy" not in shown["metadata"].get("annotations", {})


def test_one_operator_is_always_left_and_a_lone_one_blocks_no_drain() -> None:
    budget = only(rendered(), "PodDisruptionBudget", "holdfast-operator")
    assert budget["spec"]["minAvailable"] == 1
    deployment = only(rendered(), "Deployment", "holdfast-operator")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "PodDisruptionBudget" not in {one["kind"] for one in rendered("--set", "replicas=1")}


def etcd_flags(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    pod = only(manifests, "StatefulSet", "holdfast-etcd")["spec"]["template"]["spec"]
    return dict(flag.removeprefix("--").split("=", 1) for flag in pod["containers"][0]["command"][1:])


def test_the_small_etcd_compacts_itself_and_knows_its_members() -> None:
    flags = etcd_flags(rendered(*CASES["everything"]))
    assert (flags["auto-compaction-mode"], flags["auto-compaction-retention"]) == ("periodic", "10m")
    assert flags["quota-backend-bytes"] == "2147483648"
    peers = [f"holdfast-etcd-{n}=http://holdfast-etcd-{n}.holdfast-etcd.ops.svc:2380" for n in range(3)]
    assert flags["initial-cluster"].split(",") == peers


def test_an_upgrade_restarts_no_rendezvous(tmp_path: Path) -> None:
    newer = tmp_path / "holdfast"
    shutil.copytree(CHART, newer)
    about = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    (newer / "Chart.yaml").write_text(about.replace("ersion: 0.1.0", "ersion: 9.9.9"), encoding="utf-8")
    for case in ("everything", "default"):
        before, after = rendered(*CASES[case]), rendered(*CASES[case], chart=newer)
        pods = [pod_templates(manifests).get("StatefulSet/holdfast-etcd") for manifests in (before, after)]
        assert pods[0] == pods[1]
        operators = [pod_templates(manifests)["Deployment/holdfast-operator"] for manifests in (before, after)]
        assert operators[0] != operators[1]


def test_passwords_that_are_given_stand_nowhere_else() -> None:
    arguments = ("--set", "etcd.enabled=true,etcd.auth.enabled=true,etcd.auth.existingSecret=mine")
    manifests = rendered(*arguments)
    assert "Secret" not in {one["kind"] for one in manifests}
    pod = pod_templates(manifests)["Job/holdfast-etcd-users"]["spec"]
    assert {"name": "passwords", "secret": {"secretName": "mine"}} in pod["volumes"]


def trial_job(manifests: tuple[Manifest, ...]) -> dict[str, Any]:
    return dict(json.loads(only(manifests, "ConfigMap", "holdfast-test")["data"]["job.json"]))


@pytest.mark.parametrize(
    ("case", "endpoints", "credentials"),
    [
        ("everything", [f"holdfast-etcd-{n}.holdfast-etcd.ops.svc:2379" for n in range(3)], "holdfast-etcd-user"),
        ("external-etcd", ["etcd-0.example:2379", "etcd-1.example:2379", "[fd00::1]:2379"], "etcd-user"),
    ],
)
def test_the_trial_is_a_job_that_the_api_takes(case: str, endpoints: list[str], credentials: str) -> None:
    spec = ElasticJobSpec.model_validate(trial_job(rendered(*CASES[case]))["spec"])
    assert list(spec.rendezvous.endpoints) == endpoints
    assert spec.rendezvous.credentials_secret is not None
    assert spec.rendezvous.credentials_secret.name == credentials
    assert [container["name"] for container in spec.template["spec"]["containers"]] == ["holdfast"]


def test_the_trial_s_program_is_in_the_examples() -> None:
    spec = trial_job(rendered("--set", "etcd.enabled=true"))["spec"]
    runtime = {"name": "trial", "program": spec["program"], "steps": spec["steps"], "nodes": {"min": 1}}
    assert JobSpec.model_validate(runtime).steps == spec["steps"]
    path, _, function = spec["program"]["entry"].partition(":")
    source = (CHART.parents[1] / path).read_text(encoding="utf-8")
    assert f"def {function}(" in source


@pytest.mark.parametrize(
    "arguments",
    [
        "test.enabled=true",  # no etcd
        "etcd.enabled=true,test.enabled=false",
        "etcd.enabled=true,watchNamespace=elsewhere",
    ],
)
def test_no_trial_is_offered_that_could_not_run(arguments: str) -> None:
    assert "Pod" not in {one["kind"] for one in rendered("--set", arguments)}


def test_the_wall_around_a_job_lets_in_its_own_pods_and_who_reads_metrics() -> None:
    policies = [one for one in rendered(*CASES["namespaced"]) if one["kind"] == "NetworkPolicy"]
    walls = {one["metadata"]["namespace"]: one["spec"] for one in policies if one["metadata"]["namespace"] != "ops"}
    assert set(walls) == {"team-a", "team-b"}
    assert walls["team-b"]["podSelector"] == {"matchLabels": {"holdfast.dev/job": "gpt"}}
    own, scrapers = walls["team-b"]["ingress"]
    assert own == {"from": [{"podSelector": walls["team-b"]["podSelector"]}]}
    assert scrapers["ports"] == [{"port": 4710}]
    assert scrapers["from"]
    assert walls["team-a"]["podSelector"]["matchExpressions"] == [{"key": "holdfast.dev/job", "operator": "Exists"}]


def test_the_operator_s_wall_has_no_door_but_those_it_needs() -> None:
    spec = only(rendered(*CASES["namespaced"]), "NetworkPolicy", "holdfast-operator")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [port["port"] for rule in spec["ingress"] for port in rule["ports"]] == [8080]
    assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == {53, 443, 6443, 2379}
    assert spec["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]


@each_case
def test_the_operator_takes_the_options_it_is_given(case: str) -> None:
    manifests = rendered(*CASES[case])
    container = only(manifests, "Deployment", "holdfast-operator")["spec"]["template"]["spec"]["containers"][0]
    command = typer.main.get_command(app)
    with command.make_context("holdfast-operator", list(container["args"])) as context:
        assert context.params["port"] == container["ports"][0]["containerPort"]
        assert context.params["lease_namespace"] == "ops"
        roles = [one for one in manifests if named(one) == "Role/holdfast-operator-leader"]
        assert all(role["rules"][1]["resourceNames"] == [context.params["lease_name"]] for role in roles)
    doors = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert doors == {"/healthz", "/readyz"}
