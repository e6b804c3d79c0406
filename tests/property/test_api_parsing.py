"""No object, however strange, makes the operator's parsing fail otherwise than by telling what is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from holdfast.spec import load_spec
from holdfast_operator.api.v1alpha1.elastic_job import ElasticJobSpec
from holdfast_operator.api.v1alpha1.job_spec import job_spec_yaml
from holdfast_operator.api.v1alpha1.parse import parse_job, parse_status
from holdfast_operator.api.v1alpha1.problems import InvalidJobError, Problem
from holdfast_operator.api.v1alpha1.status import ElasticJobStatus
from kube.corpus import BASE

FIELDS = [to_camel(name) for model in (ElasticJobSpec, ElasticJobStatus) for name in model.model_fields]
KEYS = st.sampled_from(["apiVersion", "kind", "metadata", "spec", "status", "name", "uid", "min", "max", *FIELDS])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
# As JSON carries it: no half of a surrogate pair.
TEXTS = st.text(max_size=9) | st.sampled_from(
    ["1e-3", "null", "0x10", "- a: b", "\x85", "\u2028", "\ufeff", "é\U0001f600"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS | st.text(max_size=9), below, max_size=5),
    max_leaves=20,
)
PARAMS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=9,
)
PATHS = st.lists(st.integers(0, 9), max_size=6)
STORED: dict[str, Any] = BASE | {
    "metadata": {"name": "job", "namespace": "default", "uid": "u", "creationTimestamp": "2026-11-21T17:51:12Z"},
    "spec": BASE["spec"] | {"state": {"url": "s3://bucket/job"}, "timeouts": {"probe": 1}, "batch": {"block": 2}},
}


def with_one_changed(tree: Any, path: list[int], value: Any) -> Any:
    """A copy with something else in one place; what the numbers choose at each turn is taken modulo what is there."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    if isinstance(tree, list):
        index = path[0] % len(tree)
        return [with_one_changed(item, path[1:], value) if at == index else item for at, item in enumerate(tree)]
    key = sorted(tree)[path[0] % len(tree)]
    return tree | {key: with_one_changed(tree[key], path[1:], value)}


def told(raw: Any) -> list[Problem]:
    """What is wrong; nothing with a job."""
    try:
        parse_job(raw)
    except InvalidJobError as error:
        return list(error.problems) or pytest.fail("refused without a word")
    return []


@given(VALUES)
def test_any_object_is_a_job_or_is_refused_with_what_is_wrong(raw: Any) -> None:
    assert all(problem.field and problem.remedy for problem in told(raw))


@given(PATHS, VALUES)
def test_a_job_with_anything_in_one_place_is_a_job_or_is_refused(path: list[int], value: Any) -> None:
    assert told(STORED) == []
    assert all(problem.field and problem.remedy for problem in told(with_one_changed(STORED, path, value)))


@given(VALUES)
def test_of_any_status_something_is_kept_and_it_is_read_back_the_same(raw: Any) -> None:
    status = parse_status(raw)

    assert parse_status(json.loads(status.model_dump_json(by_alias=True))) == status


@given(st.dictionaries(TEXTS, PARAMS, max_size=5))
def test_params_arrive_at_the_runtime_as_they_were_given(
    tmp_path_factory: pytest.TempPathFactory, params: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "spec.yaml"
    text = job_spec_yaml(parse_job(STORED | {"spec": STORED["spec"] | {"program": {"entry": "a:b", "params": params}}}))
    path.write_text(text or "", encoding="utf-8")

    assert load_spec(path).program.params == params
