"""From what a person has, a manifest or a plain job spec of the runtime, to the `ElasticJob` that is submitted."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from holdfast.errors import SpecError, UserError
from holdfast.spec import load_spec
from holdfast.yaml_text import YamlError, read_manifests
from holdfast_operator.api.v1alpha1 import GROUP, KIND, VERSION
from holdfast_operator.api.v1alpha1.job_spec import FIELDS
from holdfast_operator.api.v1alpha1.names import AGENT_CONTAINER
from holdfast_operator.api.v1alpha1.parse import parse_job

Object = dict[str, Any]
_GPU = "nvidia.com/gpu"
_OURS = {theirs: ours for ours, theirs in FIELDS.items()}
# What the API server adds; before that it stands in for it, so that all else can be checked.
_ADDED = {"uid": "00000000-0000-0000-0000-000000000000", "creationTimestamp": "1970-01-01T00:00:00Z"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the command line says over the file; None: as that says."""

    name: str | None = None
    image: str | None = None
    nodes: tuple[int | None, int] | None = None  # at least, at most
    etcd: tuple[str, ...] = ()
    state: str | None = None
    gpus: int | None = None
    cpu: str | None = None
    memory: str | None = None


def read_manifest(path: Path, choice: Choice, namespace: str) -> Object:
    """Of an ElasticJob, checked as far as that can be done without the cluster.

    Raises:
        UserError: the file is neither, or fields are wrong or missing; every one is told.
    """
    raw = _read(path)
    manifest = copy.deepcopy(raw) if "kind" in raw or "apiVersion" in raw else _from_job_spec(path)
    _lay_over(manifest, choice)
    metadata = manifest.setdefault("metadata", {})
    if isinstance(metadata, dict):
        given = metadata.setdefault("namespace", namespace)
        if given != namespace:
            raise UserError(f"metadata.namespace: {given!r} given, and --namespace {namespace}; give one of them")
        parse_job({**manifest, "metadata": {**metadata, **_ADDED}})
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, **manifest}


def namespace_in(path: Path) -> str | None:
    """That the file asks for."""
    metadata = _read(path).get("metadata")
    namespace = metadata.get("namespace") if isinstance(metadata, Mapping) else None
    return namespace if isinstance(namespace, str) else None


def _read(path: Path) -> Object:
    try:
        documents = [one for one in read_manifests(path.read_text(encoding="utf-8")) if one is not None]
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path.absolute()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except YamlError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise UserError(
            f"{path}: should be one {KIND}, or one job spec of the runtime; use kubectl for several objects"
        )
    return documents[0]


def _from_job_spec(path: Path) -> Object:
    """What the spec says, and nothing that it leaves out."""
    said = _leaves(load_spec(path).model_dump(mode="json", exclude_unset=True))
    name = said.pop("name")
    manifest: Object = {"metadata": {"name": name}, "spec": {}}
    unknown = sorted(field for field in said if field not in _OURS and said[field] is not None)
    if unknown:
        raise SpecError(
            f"{path}: an {KIND} does not have these fields of a job spec: {', '.join(unknown)}; leave them out"
        )
    for field, value in said.items():
        if value is not None:
            text = field == "layout.memory_per_slot_bytes"
            _put(manifest["spec"], [to_camel(part) for part in _OURS[field].split(".")], str(value) if text else value)
    return manifest


def _leaves(tree: Mapping[str, Any], above: str = "") -> Object:
    """By dotted path; a Program's parameters are one value."""
    found: Object = {}
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and path != "program.params":
            found |= _leaves(value, f"{path}.")
        else:
            found[path] = value
    return found


def _lay_over(manifest: Object, choice: Choice) -> None:
    spec = manifest.setdefault("spec", {})
    if not isinstance(spec, dict):
        return  # which is told as wrong
    if choice.name is not None:
        _put(manifest, ["metadata", "name"], choice.name)
    if choice.nodes is not None:
        least, most = choice.nodes
        if least is not None:
            _put(spec, ["nodes", "min"], least)
        _put(spec, ["nodes", "max"], most)
    nodes = spec.get("nodes")
    if isinstance(nodes, dict) and "max" not in nodes and "desired" in nodes:
        nodes["max"] = nodes["desired"]
    if choice.etcd:
        _put(spec, ["rendezvous", "endpoints"], list(choice.etcd))
    if choice.state is not None:
        _put(spec, ["state", "url"], choice.state)
    if choice.gpus is not None:
        _put(spec, ["slotsPerNode"], choice.gpus)
    _lay_over_container(spec, choice)


def _lay_over_container(spec: Object, choice: Choice) -> None:
    if choice.image is None and "template" not in spec:
        raise UserError("--image: missing; a job spec does not say in which image its Program is")
    if (choice.image, choice.gpus, choice.cpu, choice.memory) == (None, None, None, None):
        return
    containers = spec.setdefault("template", {}).setdefault("spec", {}).setdefault("containers", [])
    agent = next((one for one in containers if one.get("name") == AGENT_CONTAINER), None)
    if agent is None:
        agent = {"name": AGENT_CONTAINER}
        containers.insert(0, agent)
    if choice.image is not None:
        agent["image"] = choice.image
    if choice.gpus is not None:
        _put(agent, ["resources", "limits", _GPU], choice.gpus)
    for resource, amount in (("cpu", choice.cpu), ("memory", choice.memory)):
        if amount is not None:
            _put(agent, ["resources", "requests", resource], amount)
    if choice.memory is not None:
        _put(agent, ["resources", "limits", "memory"], choice.memory)


def _put(tree: Object, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = tree.get(part)
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[path[-1]] = value


def parse_nodes(text: str) -> tuple[int | None, int]:
    """N, at most so many; or MIN:MAX. Raises: UserError."""
    least, colon, most = text.rpartition(":")
    numbers = [least, most] if colon else [most]
    if not all(number.isascii() and number.isdecimal() and int(number) > 0 for number in numbers):
        raise UserError(f"--nodes {text!r}: should be a number of nodes, or MIN:MAX")
    return (int(least) if colon else None), int(most)
