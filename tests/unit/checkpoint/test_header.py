"""Headers made here are those of safetensors, and what is none is refused before anything is read by it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.header import HEADER_BYTES_MAX, LENGTH, header_bytes, lay_out, parse

TENSORS = [
    ("b", "F64", (3,)),
    ("a", "F32", (2, 5)),
    ("none", "F32", (0, 4)),
    ("scalar", "I64", ()),
    ("flag", "BOOL", (3,)),
]


def text(entries: object) -> bytes:
    data = json.dumps(entries).encode()
    return LENGTH.pack(len(data)) + data


def test_safetensors_reads_a_file_laid_out_here(tmp_path: Path) -> None:
    header, start = lay_out(TENSORS, {"step": "7"})
    body = np.arange(header.size - header.data_start, dtype=np.uint8).tobytes()
    (tmp_path / "blob").write_bytes(start + body)
    with safe_open(tmp_path / "blob", framework="np") as file:
        assert file.metadata() == {"step": "7"}
        for place in header.tensors:
            tensor = file.get_tensor(place.name)
            assert tensor.shape == place.shape
            assert tensor.tobytes() == body[place.start : place.stop]


def test_a_header_that_safetensors_wrote_is_understood() -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "i": np.arange(4, dtype=np.int64),
    }
    data = save(tensors, {"a": "b"})
    header = parse(data)
    assert header.metadata == {"a": "b"}
    assert header.size == len(data)
    for place in header.tensors:
        at = header.data_start
        assert data[at + place.start : at + place.stop] == tensors[place.name].tobytes()


@given(
    st.lists(
        st.tuples(st.text(min_size=1).filter("__metadata__".__ne__), st.sampled_from(["F32", "BF16", "U8"]),
                  st.lists(st.integers(0, 5), max_size=3)),
        unique_by=lambda tensor: tensor[0],
        max_size=6,
    ),
    st.dictionaries(st.text(), st.text(), max_size=3),
)  # fmt: skip
def test_what_is_laid_out_is_what_is_parsed(
    tensors: list[tuple[str, str, list[int]]], metadata: dict[str, str]
) -> None:
    header, start = lay_out(tensors, metadata)
    found = parse(start)
    assert sorted(found.tensors, key=str) == sorted(header.tensors, key=str)
    assert (found.data_start, found.size, found.metadata) == (header.data_start, header.size, metadata)
    assert header_bytes(start[: LENGTH.size]) == len(start) == header.data_start
    assert header.data_start % 64 == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has 0 bytes"),
        (b"\0" * 7, "has 7 bytes"),
        (LENGTH.pack(0), "header would have 0 bytes"),
        (LENGTH.pack(HEADER_BYTES_MAX + 1), "header would have"),
        (LENGTH.pack(9) + b"not json!", "not a safetensors header"),
        (LENGTH.pack(5000) + b"{", "not a safetensors header"),
        (text([]), "not a safetensors header"),
        (text({"a": {}}), "not a safetensors header"),
        (text({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "not a safetensors header"),
        (text({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}), "dtype 'F7' is none of"),
        (text({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}), "does not lie where its shape says"),
        (text({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "does not lie where its shape says"),
        (
            text({
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
            }),
            "tensor 'b' does not lie",
        ),
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse(data)
