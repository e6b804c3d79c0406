"""What the API server sends, as objects: also where one of them is nested so deeply that Python cannot read it."""

import json
import re
from collections.abc import Iterator
from typing import Any

# No object that is any good is nested half as deep; a page of a list adds three.
_DEPTH_MAX = 200
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def decode_json(data: bytes) -> Any:
    """What lies too deep is null; what holds it is for others to refuse. Raises: ValueError: it is no JSON."""
    try:
        return json.loads(data)
    except RecursionError:
        return json.loads(b"".join(_shallow(data)))


def is_deep(value: object, depth_max: int) -> bool:
    """Whether it is nested deeper than that."""
    level = [value]
    for _ in range(depth_max + 1):
        if not level:
            return False
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _shallow(data: bytes) -> Iterator[bytes]:
    depth, kept_from = 0, 0
    for token in _TOKEN.finditer(data):
        if token[0] in b"[{":
            depth += 1
            if depth == _DEPTH_MAX + 1:
                yield data[kept_from : token.start()]
                yield b"null"
        elif token[0] in b"]}":
            if depth == _DEPTH_MAX + 1:
                kept_from = token.end()
            depth -= 1
    yield data[kept_from:]
