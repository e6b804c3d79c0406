"""Reads a file of JSON lines that somebody else is appending to."""

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """`read` returns all whole lines so far; each is parsed once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._seen: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._seen += [json.loads(line) for line in whole.splitlines()]
        return self._seen
