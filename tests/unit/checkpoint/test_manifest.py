"""A manifest reads back as it was written, or says that it does not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_checkpoint.digest import digest_of
from holdfast_checkpoint.errors import CorruptError, FormatError
from holdfast_checkpoint.manifest import BlobEntry, Manifest, from_json, to_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MANIFEST = Manifest(
    step=40,
    generation=3,
    run="3f2a9c1b",
    job="gpt",
    samples=1280,
    created="2025-01-02T03:04:05Z",
    identity={"layers": ["embed", "höhe"], "lr": 1e-05},
    spec={"steps": 100},
    blobs=(BlobEntry(layer=0, name="embed", path="00000.safetensors", digest=digest_of(b"0123456789")),),
    loss=0.25,
    versions={"torch": "2.13"},
)


@given(
    identity=st.dictionaries(st.text(), JSON, max_size=3),
    spec=st.dictionaries(st.text(), JSON, max_size=3),
    loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    contents=st.lists(st.binary(max_size=20), max_size=4),
)
def test_what_was_written_is_read(
    identity: dict[str, Any], spec: dict[str, Any], loss: float | None, contents: list[bytes]
) -> None:
    blobs = tuple(
        BlobEntry(layer=layer, name=f"layer {layer}", path=f"{layer}.safetensors", digest=digest_of(content))
        for layer, content in enumerate(contents)
    )
    manifest = replace(MANIFEST, identity=identity, spec=spec, loss=loss, blobs=blobs)
    read = from_json(to_json(manifest), "here")
    assert read == manifest
    assert read.fingerprint == manifest.fingerprint
    assert read.size == sum(len(content) for content in contents)


def test_every_flipped_bit_is_found_or_changes_nothing() -> None:
    # Two writings of one value differ in a bit: 1e-05 and 1E-05, \u00f6 and \u00F6. All else is an error.
    data, unchanged, errors = to_json(MANIFEST), 0, list[str]()
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            try:
                assert from_json(bytes(flipped), "here") == MANIFEST
                unchanged += 1
            except (CorruptError, FormatError) as error:
                errors.append(str(error))
    assert unchanged <= 3
    assert all("here" in error for error in errors)


def test_every_torn_manifest_is_found() -> None:
    data = to_json(MANIFEST).rstrip()
    for size in range(len(data)):
        with pytest.raises((CorruptError, FormatError)):
            from_json(data[:size], "here")


def test_fingerprints_differ_exactly_where_identities_do() -> None:
    same = replace(MANIFEST, step=41, spec={}, identity={"lr": 1e-05, "layers": ["embed", "höhe"]})
    assert same.fingerprint == MANIFEST.fingerprint
    assert replace(MANIFEST, identity={"lr": 1e-05, "layers": ["höhe", "embed"]}).fingerprint != MANIFEST.fingerprint


@pytest.mark.parametrize("data", [b"[]", b"{}", b'"manifest"', b'{"format": "another"}'])
def test_json_of_something_else_is_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError, match="here is not a Holdfast manifest"):
        from_json(data, "here")


def test_a_manifest_of_a_newer_schema_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast_checkpoint.manifest.SCHEMA", 2)
    data = to_json(MANIFEST)
    monkeypatch.undo()
    assert json.loads(data)["schema"] == 2
    with pytest.raises(FormatError, match="another schema than 1; use the Holdfast that wrote it, or a newer one"):
        from_json(data, "here")
