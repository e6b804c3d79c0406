"""What random input is made of, and a watch for exceptions that nobody takes."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

BYTES = st.one_of(
    st.binary(max_size=64),
    st.binary(min_size=200, max_size=5000),
    st.sampled_from(
        [b"\x00" * 8, b"\xff" * 8, b"\r\n\r\n", b"{}", b"[" * 3000, b'{"v":1,"body":{}}', b"GET / HTTP/9\r\n\r\n"]
    ),
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=8), st.sampled_from(["v", "body", "slot", "node", "generation", "step"])),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@contextmanager
def unhandled() -> Iterator[list[Any]]:
    """Exceptions of threads, and of tasks that nobody waited for, while inside."""
    troubles: list[Any] = []
    before = threading.excepthook
    threading.excepthook = troubles.append
    gc.freeze()  # so that the collection below, one for each input, goes through what came since alone
    try:
        yield troubles
    finally:
        threading.excepthook = before
        gc.collect()  # a task's exception is told of when the task goes
        gc.unfreeze()
