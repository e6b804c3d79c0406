"""Checksums find every change, whatever pieces the bytes came in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_checkpoint.digest import Digest, Hasher, check, check_chunk, chunks_of, digest_of
from holdfast_checkpoint.errors import CorruptError, FormatError


def hashed(pieces: list[bytes], chunk_bytes: int) -> Digest:
    hasher = Hasher(chunk_bytes)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


@given(pieces=st.lists(st.binary(max_size=40), max_size=12), chunk_bytes=st.integers(1, 64))
def test_the_pieces_in_which_bytes_arrive_do_not_change_their_digest(pieces: list[bytes], chunk_bytes: int) -> None:
    whole = b"".join(pieces)
    assert hashed(pieces, chunk_bytes) == hashed([whole], chunk_bytes)
    check(whole, hashed(pieces, chunk_bytes), "it")


@given(
    data=st.binary(min_size=1, max_size=200), chunk_bytes=st.integers(1, 64), at=st.integers(0), bit=st.integers(0, 7)
)
def test_one_flipped_bit_is_found_and_its_chunk_named(data: bytes, chunk_bytes: int, at: int, bit: int) -> None:
    at %= len(data)
    digest = hashed([data], chunk_bytes)
    flipped = bytearray(data)
    flipped[at] ^= 1 << bit
    chunk, start, stop = next(iter(chunks_of(digest, at, at + 1)))
    with pytest.raises(CorruptError, match=f"layer 3 is corrupt between bytes {start} and {stop}:"):
        check(flipped, digest, "layer 3")
    with pytest.raises(CorruptError):
        check_chunk(flipped[start:stop], digest, chunk, "layer 3")
    assert hashed([bytes(flipped)], chunk_bytes).text != digest.text


@pytest.mark.parametrize("data", [b"", b"abcdefg", b"abcdefghi"])
def test_a_byte_less_or_more_is_found(data: bytes) -> None:
    with pytest.raises(CorruptError, match=f"has {len(data)} bytes, and 8 were written"):
        check(data, digest_of(b"abcdefgh"), "it")


@given(
    size=st.integers(0, 300), chunk_bytes=st.integers(1, 64), cuts=st.tuples(st.integers(0, 300), st.integers(0, 300))
)
def test_the_chunks_of_a_range_cover_it_and_no_more(size: int, chunk_bytes: int, cuts: tuple[int, int]) -> None:
    digest = hashed([bytes(size)], chunk_bytes)
    start, stop = sorted(min(cut, size) for cut in cuts)
    chunks = list(chunks_of(digest, start, stop)) if start < stop else []
    covered = {byte for _, begin, end in chunks for byte in range(begin, end)}
    assert covered >= set(range(start, stop))
    assert all(begin < stop and end > start for _, begin, end in chunks)
    assert all(end <= size for _, _, end in chunks)


def test_a_digest_without_a_checksum_for_each_chunk_is_refused() -> None:
    with pytest.raises(FormatError, match="has 1 checksums"):
        Digest(size=10, chunks=("00",), chunk_bytes=5)
