"""What all parts of the API's model have in common, and what a part tells the CRD's schema beside its fields."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What must hold between the fields of a section, said twice: in CEL for the API server, in Python for here."""

    cel: str
    holds: Callable[[Any], bool]
    field: str  # which is told as the wrong one; dotted, as manifests write it
    message: str  # what would be right
    reason: Reason = "FieldValueInvalid"

    def as_schema(self) -> dict[str, str]:
        """One of `x-kubernetes-validations`."""
        return {"rule": self.cel, "message": self.message, "reason": self.reason, "fieldPath": f".{self.field}"}


def _tell_schema(schema: dict[str, Any], model: type["Section"]) -> None:
    """Adds what JSON schema has no word for; pydantic calls it with every section's schema."""
    told = [rule.as_schema() for rule in model.rules] + [_as_transition(model, name) for name in model.immutable]
    if told:
        schema["x-kubernetes-validations"] = told
    if model.model_config.get("extra") == "allow":
        schema["x-kubernetes-preserve-unknown-fields"] = True


def _as_transition(model: type["Section"], name: str) -> dict[str, str]:
    """That a field stays as it is; one that may be left out may neither come nor go."""
    field, written = model.model_fields[name], to_camel(name)
    unchanged = f"self.{written} == oldSelf.{written}"
    if field.default is None:
        has = f"has(self.{written})"
        unchanged = f"{has} == has(oldSelf.{written}) && (!{has} || {unchanged})"
    return {
        "rule": unchanged,
        "message": "is fixed once the job is made; delete the job and make it anew",
        "reason": "FieldValueForbidden",
        "fieldPath": f".{written}",
    }


class Section(BaseModel):
    """Fields are written in camelCase in manifests and in snake_case here. What is unknown is refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
        json_schema_extra=_tell_schema,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    immutable: ClassVar[tuple[str, ...]] = ()  # fields that only a new object may give another value

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        """As the API server has it: a section left empty (`timeouts:`) means what leaving it out means."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _keeps_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise PydanticCustomError("twice", "should name each once; {twice} occurs again", {"twice": ", ".join(twice)})
    return values


_Item = TypeVar("_Item", bound=str)

# Strict parts take a manifest's lists nevertheless.
Listed = Annotated[tuple[_Item, ...], Field(strict=False)]
Distinct = Annotated[
    tuple[_Item, ...],
    Field(strict=False, json_schema_extra={"x-kubernetes-list-type": "set"}),
    AfterValidator(_each_once),
]
