"""Texts that are kept of many things at once, so that all of them fit into one object."""

import json

# What the API server writes as six bytes, as JSON for web pages has it.
_ESCAPED = "<>&"


def shortened(text: str, bytes_max: int) -> str:
    """As much of its beginning as takes so many bytes in JSON, however it is escaped."""
    size = 0
    for at, char in enumerate(text):
        size += 6 if char in _ESCAPED else len(json.dumps(char)) - 2
        if size > bytes_max:
            return text[:at]
    return text
