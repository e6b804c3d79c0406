"""The CRD: structural, told in full, true to the model, and fixed where the runtime's job spec is."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
from pydantic.alias_generators import to_camel

from holdfast_operator.api.v1alpha1.crd import FILE, as_yaml, crd, root_schema
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobSpec
from holdfast_operator.api.v1alpha1.job_spec import FIELDS
from holdfast_operator.api.v1alpha1.problems import written
from kube.corpus import BASE, CORPUS, Wrong

ROOT = Path(__file__).parents[4]
SCHEMA = root_schema()
# A structural schema's words, less those that we have no use for.
WORDS = {
    "additionalProperties", "default", "description", "enum", "exclusiveMinimum", "format", "items", "maxItems",
    "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minimum", "nullable", "pattern", "properties",
    "required", "type", "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}  # fmt: skip


def schemas(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in `schema`, itself included, with its path."""
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from schemas(below, f"{path}.{name}")
    for inside in ("items", "additionalProperties"):
        if inside in schema:
            yield from schemas(schema[inside], f"{path}[]")


def at(path: str) -> Mapping[str, Any]:
    """The schema at a path such as .spec.nodes; KeyError where there is none."""
    found: Mapping[str, Any] = SCHEMA
    for part in path.removeprefix(".").split("."):
        found = found["properties"][part]
    return found


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """As the API server fills them in."""
    if isinstance(value, list):
        return [with_defaults(schema["items"], item) for item in value]
    if not isinstance(value, dict):
        return value
    below = schema.get("properties", {})
    filled = {name: field["default"] for name, field in below.items() if "default" in field} | value
    return {name: with_defaults(below.get(name, {}), inner) for name, inner in filled.items()}


def test_the_checked_in_crd_is_what_the_model_gives() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == as_yaml(), "run `make crd`"


def test_the_schema_is_structural() -> None:
    for path, schema in schemas(SCHEMA):
        assert set(schema) <= WORDS, path
        assert "type" in schema or schema.get("x-kubernetes-preserve-unknown-fields"), path
        assert not ("properties" in schema and "additionalProperties" in schema), path


def test_every_field_says_what_it_is() -> None:
    silent = [
        path for path, schema in schemas(SCHEMA) if "description" not in schema and not path.endswith("[]") and path
    ]

    # Of metadata a CRD may say nothing.
    assert set(silent) <= {".metadata", ".metadata.name"}


def test_what_the_api_server_fills_in_is_what_the_model_fills_in() -> None:
    filled = with_defaults(at(".spec"), BASE["spec"])

    assert filled != BASE["spec"]
    assert ElasticJobSpec.model_validate(filled) == ElasticJobSpec.model_validate(BASE["spec"])


def test_defaults_keep_the_schema() -> None:
    for _, schema in schemas(SCHEMA):
        if "default" in schema:
            jsonschema.Draft4Validator(schema).validate(schema["default"])


def test_a_rule_names_a_field_that_is_there_and_says_what_would_be_right() -> None:
    rules = [(path, rule) for path, schema in schemas(SCHEMA) for rule in schema.get("x-kubernetes-validations", ())]

    assert len(rules) > 20
    for path, rule in rules:
        assert at(path + rule["fieldPath"])
        assert rule["message"].startswith(("should ", "is fixed"))


def test_what_the_runtime_is_told_once_can_never_change() -> None:
    # These it is told again, or the operator acts on them itself.
    free = {"nodes.desired", "preemption.notice"}
    fixed = {rule["fieldPath"] for rule in at(".spec")["x-kubernetes-validations"] if "oldSelf" in rule["rule"]}
    for section in ("nodes", "state"):
        rules = at(f".spec.{section}")["x-kubernetes-validations"]
        fixed |= {f".{section}{rule['fieldPath']}" for rule in rules if "oldSelf" in rule["rule"]}

    for ours in set(FIELDS) - free:
        path = "." + ".".join(map(to_camel, ours.split(".")))
        assert path in fixed or "." + path.split(".")[1] in fixed, f"{path} may change"


def test_a_list_that_a_rule_walks_has_a_bound() -> None:
    # Or the API server refuses the CRD: its CEL might take too long.
    for path, schema in schemas(at(".spec"), ".spec"):
        if schema.get("type") == "array" and not path.endswith((".command", ".args")):
            assert "maxItems" in schema, path


def test_columns_and_scale_show_fields_that_are_there() -> None:
    (version,) = crd()["spec"]["versions"]
    scale = version["subresources"]["scale"]

    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"] != ".metadata.creationTimestamp":
            assert at(column["jsonPath"])["type"] == column["type"].replace("date", "string")
    for path in (scale["specReplicasPath"], scale["statusReplicasPath"]):
        assert (at(path)["type"], at(path)["format"]) == ("integer", "int32")
    assert at(scale["labelSelectorPath"])["type"] == "string"
    names = [column["name"] for column in version["additionalPrinterColumns"] if column["priority"] == 0]
    assert names == ["Phase", "Step", "Ready", "Desired", "Layout", "Samples/s", "Goodput", "Age"]


@pytest.mark.parametrize("wrong", [wrong for wrong in CORPUS if wrong.by == "schema"], ids=lambda wrong: wrong.name)
def test_the_schema_alone_refuses(wrong: Wrong) -> None:
    errors = list(jsonschema.Draft4Validator(SCHEMA).iter_errors(wrong.manifest()))

    # What is missing JSON schema tells of where it should be.
    named = {(written(list(error.absolute_path)), error.message) for error in errors}
    parent, _, name = wrong.field.rpartition(".")
    assert any(path == wrong.field or (path == parent and re.search(rf"'{name}'", told)) for path, told in named), named


@pytest.mark.parametrize("wrong", [wrong for wrong in CORPUS if wrong.by != "schema"], ids=lambda wrong: wrong.name)
def test_the_schema_alone_lets_pass_what_only_others_can_refuse(wrong: Wrong) -> None:
    jsonschema.Draft4Validator(SCHEMA).validate(wrong.manifest())


def test_the_corpus_is_large_and_names_each_once() -> None:
    assert len([wrong for wrong in CORPUS if wrong.by != "condition"]) >= 40
    assert len({wrong.name for wrong in CORPUS}) == len(CORPUS)
    jsonschema.Draft4Validator(SCHEMA).validate(BASE)
