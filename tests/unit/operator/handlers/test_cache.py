"""The cache's indexes, against looking through everything."""

from hypothesis import given
from hypothesis import strategies as st

from holdfast_operator.handlers.cache import Cache, Key

_KEYS = st.tuples(st.just("n"), st.sampled_from("abcd"))


@given(st.lists(st.tuples(_KEYS, st.none() | st.integers(0, 3))))
def test_what_an_index_finds_is_what_is_there(changes: list[tuple[Key, int | None]]) -> None:
    cache: Cache[int] = Cache({"value": lambda value: ("", str(value)) if value else None})
    there: dict[Key, int] = {}
    for key, value in changes:
        before = cache.put(key, value)
        assert before == there.get(key)
        if value is None:
            there.pop(key, None)
        else:
            there[key] = value
        assert {name: cache.get(name) for name in cache} == there
        for wanted in range(4):
            found = tuple(there[name] for name in sorted(there) if wanted and there[name] == wanted)
            assert cache.find("value", ("", str(wanted))) == found
