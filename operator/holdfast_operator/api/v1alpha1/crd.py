"""The CustomResourceDefinition of `ElasticJob`, made from its model. It is checked in, for the chart."""

import json
from typing import Any, Final

import yaml

from holdfast_operator.api.v1alpha1 import GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from holdfast_operator.api.v1alpha1.elastic_job import JOB_NAME, ElasticJob
from holdfast_operator.api.v1alpha1.names import JOB_NAME_MAX
from holdfast_operator.api.v1alpha1.schema import Schema, structural_schema

NAME: Final = f"{PLURAL}.{GROUP}"
FILE: Final = f"charts/holdfast/files/{NAME}.yaml"  # below the project's root
_HEADER = "# Made by `make crd` from the model in operator/holdfast_operator/api; change that.\n"

_COLUMNS = (
    ("Phase", "string", ".status.phase", 0, "of the conditions, for people"),
    ("Step", "string", ".status.progress", 0, "committed steps, of how many"),
    ("Ready", "integer", ".status.nodes.ready", 0, "nodes that joined and are not leaving"),
    ("Desired", "integer", ".status.nodes.desired", 0, "nodes asked for at present"),
    ("Layout", "string", ".status.layout", 0, "2x3+1x2: two pipelines of three stages, one of two"),
    ("Samples/s", "string", ".status.samplesPerSecond", 0, "over the last steps"),
    ("Goodput", "string", ".status.goodput", 0, "share of the time that went into steps that count"),
    ("Draining", "integer", ".status.nodes.draining", 1, "nodes that are leaving"),
    ("Disruptions", "integer", ".status.disruptions.seen", 1, "nodes that went away by no fault of the job"),
    ("Recoveries", "integer", ".status.recoveries", 1, "generations that a loss began"),
    ("Checkpoint", "date", ".status.checkpoint.time", 1, "age of the newest checkpoint"),
    ("Age", "date", ".metadata.creationTimestamp", 0, "since the job was made"),
)


def as_yaml() -> str:
    """What the checked-in file holds."""
    tree = json.loads(json.dumps(crd()))  # so that no list is shared, which YAML would write as an anchor
    return _HEADER + yaml.safe_dump(tree, sort_keys=False, width=120, allow_unicode=True)


def crd() -> dict[str, Any]:
    """The manifest."""
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": SINGULAR,
        "shortNames": [SHORT_NAME],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [_version()]},
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root_schema()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.nodes.desired",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority, "description": about}
            for name, kind, path, priority, about in _COLUMNS
        ],
    }


def root_schema() -> Schema:
    """Of a whole object. Its metadata is the API server's, but for the name, from which others are made."""
    whole = structural_schema(ElasticJob)
    below: Schema = whole["properties"]
    below["spec"]["description"] = "what is wanted"
    below["status"]["description"] = "what is; written by the operator"
    del below["status"]["default"]  # an object that no operator has seen yet has none
    return {
        "description": whole["description"],
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            # Nothing else can be said of it in a CRD, a description neither.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": JOB_NAME_MAX, "pattern": JOB_NAME}},
            },
            "spec": below["spec"],
            "status": below["status"],
        },
    }
