"""What agents ask and answer about copies, as it goes over the wire."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.agent.offers import SNAPSHOTS, Offer, Question, Version
from holdfast.errors import ProtocolError
from holdfast.model.ids import NodeId
from holdfast_checkpoint.digest import Digest, digest_of

VERSIONS = st.none() | st.builds(Version, st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
DIGEST = digest_of(b"some bytes")


@given(st.frozensets(st.integers(0, 13_000), min_size=1), VERSIONS, VERSIONS)
def test_a_question_is_read_as_it_was_asked_and_fits_into_a_line(
    layers: frozenset[int], after: Version | None, kept: Version | None
) -> None:
    question = Question(node=NodeId("node-1.rack-2"), incarnation="5f1c", layers=layers, after=after, kept=kept)
    assert len(question.target) < 4000
    parts = urlsplit(question.target)
    assert parts.path == SNAPSHOTS
    assert Question.read(dict(parse_qsl(parts.query))) == question


@given(VERSIONS, VERSIONS, st.dictionaries(st.integers(0, 10**6), st.binary(max_size=50).map(digest_of)))
def test_an_offer_is_read_as_it_was_made(
    version: Version | None, kept: Version | None, digests: dict[int, Digest]
) -> None:
    offer = Offer(version=version, kept=kept, digests=digests)
    assert Offer.read(json.dumps(offer.to_json()).encode()) == offer


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"layers": ""},
        {"layers": "0"},
        {"layers": "xyz"},
        {"layers": "1" * 5000},
        {"layers": "1", "after": "ten"},
        {"layers": "1", "after": "-1.2"},
        {"layers": "1", "kept": "1.2.3"},
    ],
)
def test_a_malformed_question_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        Question.read({"node": "a", **query})


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"version": "ten"},
        {"version": 10},
        {"kept": []},
        {"layers": []},
        {"layers": {"x": {}}},
        {"layers": {"1": {"size": 1, "chunk_bytes": 0, "chunks": ["a"]}}},
        {"layers": {"1": {"size": -1, "chunk_bytes": 1, "chunks": []}}},
        {"layers": {"1": {"size": 10, "chunk_bytes": 5, "chunks": ["a"]}}},
        {"layers": {"1": {"size": 1, "chunk_bytes": 1, "chunks": [7]}}},
        {"layers": {"1": {"size": True, "chunk_bytes": 1, "chunks": ["a"]}}},
    ],
)
def test_a_malformed_offer_is_refused(change: dict[str, object]) -> None:
    sound = Offer(version=Version(1, 2), kept=None, digests={1: DIGEST}).to_json()
    with pytest.raises(ProtocolError):
        Offer.read(json.dumps(sound | change).encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_offer_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Offer.read(data)
