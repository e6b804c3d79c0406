"""From pydantic's JSON schema to what a CRD may hold: structural, so without references and without alternatives.

https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from collections.abc import Mapping
from typing import Any

from holdfast_operator.api.v1alpha1.section import Section

Schema = dict[str, Any]

_INT32_MAX = 2**31 - 1
_DROPPED = ("$defs", "title", "additionalProperties")


def structural_schema(model: type[Section]) -> Schema:
    """Of `model` and all below it."""
    generated = model.model_json_schema(by_alias=True)
    return _structural(generated, generated.get("$defs", {}))


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    schema = _inlined(_without_null(_inlined(schema, definitions)), definitions)
    kept = {key: value for key, value in schema.items() if key not in _DROPPED}
    if kept.get("default", ...) is None:
        del kept["default"]
    if "const" in kept:
        kept["enum"] = [kept.pop("const")]
    if "exclusiveMinimum" in kept:
        # OpenAPI 3.0, as CRDs have it, knows a flag beside the bound.
        kept |= {"minimum": kept["exclusiveMinimum"], "exclusiveMinimum": True}
    if kept["type"] in {"integer", "number"}:
        kept["format"] = _format(kept)
    if kept["type"] == "array":
        kept["items"] = _structural(kept["items"], definitions)
    if kept["type"] == "object":
        kept |= _members(schema, definitions)
    return kept


def _inlined(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """What is said beside a reference wins over what stands there."""
    while "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**definitions[schema["$ref"].rpartition("/")[2]], **rest}
    return dict(schema)


def _without_null(schema: Mapping[str, Any]) -> Schema:
    """A field that may be None in Python may be left out of a manifest; null is nothing that is written there."""
    if "anyOf" not in schema:
        return dict(schema)
    (only,) = (choice for choice in schema["anyOf"] if choice != {"type": "null"})
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "title"}}
    return {**only, **rest}


def _format(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "number":
        return "double"
    return "int32" if schema.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"


def _members(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Of an object: its fields, or what all its values are, or, where they may be anything, that."""
    if "properties" in schema:
        required = schema.get("required", ())
        return {
            "properties": {
                name: _member(below, definitions, is_required=name in required)
                for name, below in schema["properties"].items()
            }
        }
    values = _inlined(schema["additionalProperties"], definitions)
    if not set(values) - {"title"}:
        # Not the object itself: of one that keeps what is unknown, CEL takes a key that was renamed for unchanged.
        return {"additionalProperties": {"nullable": True, "x-kubernetes-preserve-unknown-fields": True}}
    return {"additionalProperties": _structural(values, definitions)}


def _member(schema: Mapping[str, Any], definitions: Mapping[str, Any], *, is_required: bool) -> Schema:
    """A section that may be left out is there nevertheless, with its defaults, unless it may be None."""
    below = _structural(schema, definitions)
    if "properties" in below and not is_required and "anyOf" not in schema:
        # Spelled out, since the API server checks this default against the rules before it fills in those below.
        below["default"] = {name: field["default"] for name, field in below["properties"].items() if "default" in field}
    return below
