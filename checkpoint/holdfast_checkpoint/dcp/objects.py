"""State that is no tensor (a step, a learning rate, betas) as JSON, exactly or not at all.

torch.distributed.checkpoint hands such values over pickled, in memory, and wants them back so. Nothing of that is
stored: on the way out only plain values are taken out of the pickle, on the way in a pickle is made of the JSON.
"""

import io
import math
from typing import Any

import torch

_TUPLE, _FLOAT = "$tuple", "$float"  # what JSON lacks; a dict with such a key is refused, so these are never ambiguous


def to_json(value: object, what: str) -> Any:
    """`value` in JSON's own types, such that `from_json` gives back an equal value of the same types.

    Raises: ValueError: it cannot be; names `what`.
    """
    # Exact types: a subclass (numpy.float64, an IntEnum) would come back as something else.
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if type(value) is list:
        return [to_json(item, f"{what}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return {_TUPLE: [to_json(item, f"{what}[{index}]") for index, item in enumerate(value)]}
    if type(value) is dict:
        return {_key(key, what): to_json(item, f"{what}.{key}") for key, item in value.items()}
    raise ValueError(
        f"{what} is a {type(value).__qualname__}, which is no JSON value; make it a tensor, or one of None, bool, int, "
        "float, str, list, tuple and dict with str keys, or leave it out of the state"
    )


def from_json(value: Any) -> object:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(from_json(item) for item in value[_TUPLE])
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    return {key: from_json(item) for key, item in value.items()}


def unpacked(data: io.BytesIO, what: str) -> Any:
    """What a SavePlanner made of a value, as JSON. Raises: ValueError."""
    data.seek(0)
    try:
        # Runs no code of the value's: weights_only takes nothing but plain containers and tensors.
        value = torch.load(data, weights_only=True)  # noqa: TID251 (in memory, of what this process pickled just now)
    except Exception as error:  # whatever is wrong with it, it is no JSON value
        raise ValueError(
            f"{what} is no JSON value; make it a tensor, or one of None, bool, int, float, str, list, tuple and "
            f"dict with str keys, or leave it out of the state ({type(error).__name__})"
        ) from error
    return to_json(value, what)


def packed(value: Any) -> io.BytesIO:
    """As a LoadPlanner wants it."""
    data = io.BytesIO()
    torch.save(from_json(value), data)  # noqa: TID251 (in memory, for the planner's own torch.load in this process)
    data.seek(0)
    return data


def _key(key: object, what: str) -> str:
    if type(key) is not str or key in (_TUPLE, _FLOAT):
        raise ValueError(f"{what} is a dict with the key {key!r}; only str keys can be stored, none of them {_TUPLE!r}")
    return key
