"""report.json keeps its word: valid against the schema that is shipped, and every field is documented."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest

from holdfast.model.records import Action, Cause, Result, Version
from holdfast.telemetry.report import schema, shipped_schema
from unit.telemetry.conftest import Story, commit, plan, ready

DOCS = Path(__file__).parents[3] / "docs" / "report.md"


def objects(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(object, field) of the whole schema."""
    for name, part in {tree["title"]: tree, **tree["$defs"]}.items():
        for field in part.get("properties", {}):
            yield name, field


def test_the_shipped_schema_is_the_one_of_the_models() -> None:
    assert shipped_schema() == json.loads(json.dumps(schema()))


def test_the_shipped_schema_is_valid_json_schema_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(shipped_schema())
    assert shipped_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_field_of_the_schema_is_described_and_required() -> None:
    tree = shipped_schema()
    for name, part in {"Report": tree, **tree["$defs"]}.items():
        if "enum" in part:
            continue
        assert set(part["required"]) == set(part["properties"]), name
        assert part["additionalProperties"] is False
        assert all(field["description"] for field in part["properties"].values()), name


@pytest.mark.parametrize(("name", "field"), list(objects(schema())))
def test_every_field_of_the_schema_is_documented(name: str, field: str) -> None:
    sections = re.split(r"^## ", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    mine = [section for section in sections if section.startswith(f"{name}\n")]
    assert mine, f"{DOCS.name} has no section {name}"
    assert f"| `{field}` |" in mine[0]


def test_the_documentation_names_no_field_that_is_not_there() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert documented <= {field for _, field in objects(schema())}


def eventful() -> Story:
    story = Story()
    story.trained_to(5).at(15).vanished("b").begun(2, "a").begun(3, "a")
    story.started(3, None, version=Version(4, 1), action=Action.HOLD).running(3, "a").begun(4, "ac", Cause.RESUME)
    story.started(4, plan("ac"), version=Version(4, 1)).running(4, "ac", [ready("c", [("a", 200)])])
    return story.commits(4, commit(5, 20.0, loss=math.nan), commit(6, 21.0))


def test_a_report_is_valid_against_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(shipped_schema())
    stories = {
        "nothing happened": Story(),
        "undisturbed": Story().trained_to(3).ended(Result.COMPLETED, 3),
        "eventful": eventful(),
        "failed": Story().trained_to(1).failed(1).ended(Result.FAILED, 1),
    }
    for name, story in stories.items():
        text = story.recorder.report().to_json()
        errors = [error.message for error in validator.iter_errors(json.loads(text, parse_constant=pytest.fail))]
        assert errors == [], name


def test_the_schema_refuses_what_is_no_report() -> None:
    good = json.loads(eventful().recorder.report().to_json())
    validator = jsonschema.Draft202012Validator(shipped_schema())
    for wrong in ({"outcome": "fine"}, {"surplus": 1}, {"losses": ["nan"]}, {"steps_committed": -1}):
        assert not validator.is_valid(good | wrong), wrong
