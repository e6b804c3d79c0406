"""Whatever the API server sends becomes objects, and each object an entry, or what was there before stays."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import Retrying, stop_after_attempt

from holdfast_operator.api.v1alpha1 import parse
from holdfast_operator.handlers import decoding, entries
from holdfast_operator.handlers.cache import Cache
from holdfast_operator.handlers.client import ELASTIC_JOBS, Cluster, Object, Page, Resource
from holdfast_operator.handlers.decoding import decode_json, is_deep
from holdfast_operator.handlers.entries import JobEntry, job_entry
from holdfast_operator.handlers.errors import ClusterUnavailableError
from holdfast_operator.handlers.informer import Informer, Wanted, _pause_s
from holdfast_operator.handlers.metrics import OperatorMetrics

_DEEP = 100_000
VALUES = st.recursive(
    st.none() | st.integers() | st.text(alphabet='"\\[]{}a'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\[]{}a'), inner, max_size=3),
)


def raw(name: str = "a", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": spec, "status": {"recoveries": 3}}


@pytest.mark.parametrize("steps", [10, "many"])
def test_whose_a_job_is_does_not_hang_on_the_rest_of_its_spec(steps: object) -> None:
    found = job_entry(raw(managedBy="another/controller", steps=steps))
    assert found is not None
    assert (found.managed_by, found.is_ours, found.job) == ("another/controller", False, None)
    odd = job_entry(raw(managedBy=7))
    assert odd is not None
    assert (odd.is_ours, odd.job) == (True, None)
    deleted = raw()
    deleted["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    leaving = job_entry(deleted)
    assert leaving is not None
    assert not leaving.is_ours


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_an_object_too_deep_to_be_read_hides_none_of_the_others() -> None:
    items = [json.dumps(raw(name)) for name in ("a", "b", "c")]
    items[1] = items[1].replace('"spec": {}', f'"spec": {{"x": {nested(_DEEP)}}}')
    page = decode_json(b'{"items": [%b]}' % ", ".join(items).encode())
    assert [item["metadata"]["name"] for item in page["items"]] == ["a", "b", "c"]
    assert page["items"][0] == raw("a")
    assert page["items"][2] == raw("c")
    found = job_entry(page["items"][1])
    assert found is not None
    assert (found.job, found.status.recoveries) == (None, 3)
    assert "spec: is nested more than 64 levels deep" in found.problem


@given(VALUES)
def test_what_is_not_deep_is_read_as_it_is(value: object) -> None:
    assert json.loads(b"".join(decoding._shallow(json.dumps(value).encode()))) == value


def test_how_deep_is_counted_as_it_is_written() -> None:
    for depth in (1, 64, 65, 500):
        assert is_deep(json.loads("[" * depth + "1" + "]" * depth), 64) == (depth > 64)


def test_a_job_that_breaks_its_parser_has_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(entries, "parse_job", broken)
    found = job_entry(raw())
    assert found == JobEntry(
        parse.parse_metadata(raw()),
        parse.parse_status({"recoveries": 3}),
        None,
        "the object cannot be read: ZeroDivisionError('a bug')",
    )


class OneList:
    """A cluster whose list is `items`; its watch ends at once."""

    def __init__(self, *items: Object) -> None:
        self.items = items

    async def list_page(self, resource: Resource, namespace: str, query: Mapping[str, str]) -> Page:
        return Page(items=self.items, resource_version="1", more="")

    async def watch(self, *_: object) -> AsyncIterator[Object]:
        for item in self.items:
            yield {"type": "MODIFIED", "object": item}


async def test_an_object_that_breaks_who_looks_at_it_is_not_gone() -> None:
    def see(item: Object) -> str:
        return str(item["spec"]["x"])

    cluster, cache = OneList(raw("a", x=1), raw("b", x=2)), Cache[str]()
    told: list[tuple[str, str | None]] = []
    informer = Informer(
        cast(Cluster, cluster),
        Wanted(resource=ELASTIC_JOBS),
        cache,
        see,
        lambda key, _, after: told.append((key[1], after)),
        OperatorMetrics(),
    )
    await informer._list()
    cluster.items = (raw("a"), raw("b", x=3))
    await informer._list()
    assert told == [("a", "1"), ("b", "2"), ("b", "3")]
    cluster.items = (raw("b"), raw("a", x=4))
    await informer._watch()
    assert told[3:] == [("a", "4")]


@pytest.mark.parametrize(("asked_s", "least_s", "most_s"), [(7.0, 7.0, 10.0), (1e9, 60.0, 60.0), (None, 0.0, 10.0)])
def test_an_api_server_is_left_alone_as_long_as_it_asks_within_reason(
    asked_s: float | None, least_s: float, most_s: float
) -> None:
    pauses: list[float] = []
    attempts = Retrying(wait=_pause_s, stop=stop_after_attempt(2), sleep=pauses.append, reraise=True)

    def busy() -> None:
        raise ClusterUnavailableError("too many requests (429)", asked_s)

    with pytest.raises(ClusterUnavailableError):
        attempts(busy)
    (pause_s,) = pauses
    assert least_s <= pause_s <= most_s
