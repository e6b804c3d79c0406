"""How far apart the numbers of two runs of bytes are: every dtype of safetensors, without torch."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_Bits: TypeAlias = NDArray[np.unsignedinteger[Any]]

# How an item's bits are read where numpy has such numbers; the others are in `_values`.
_VIEWS = {
    "BOOL": "<u1", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
_BYTES = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1} | {name: int(view[2:]) for name, view in _VIEWS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """`max_abs`: the largest difference; infinite if a NaN or an infinity is on one side only. `differing`: of how many
    items the bits differ; there may be some with `max_abs` 0, since -0.0 is not 0.0 bit for bit."""

    items: int = 0
    differing: int = 0
    max_abs: float = 0.0

    def __add__(self, other: "Apart") -> "Apart":
        return Apart(
            items=self.items + other.items,
            differing=self.differing + other.differing,
            max_abs=max(self.max_abs, other.max_abs),
        )


def apart(a: bytes, b: bytes, dtype: str) -> Apart:
    """Of as many bytes on both sides: whole items of `dtype`, as safetensors names it."""
    size = _BYTES[dtype]
    bits_a, bits_b = (np.frombuffer(data, dtype=f"<u{size}") for data in (a, b))
    at = np.flatnonzero(bits_a != bits_b)
    if not at.size:
        return Apart(items=bits_a.size)
    with np.errstate(all="ignore"):  # what is not finite is told by `max_abs`
        distances = np.abs(_values(bits_a[at], dtype) - _values(bits_b[at], dtype))
    # A NaN against any other bits is as far apart as can be; `nan` would be lost in a maximum.
    largest = float(np.max(np.nan_to_num(distances, nan=np.inf, posinf=np.inf)))
    return Apart(items=bits_a.size, differing=at.size, max_abs=largest)


def _values(bits: _Bits, dtype: str) -> NDArray[Any]:
    """As float64, or complex128. 64-bit integers above 2**53 are rounded."""
    if dtype == "BF16":  # the upper half of a float32
        read: NDArray[Any] = (bits.astype("<u4") << 16).view("<f4")
    elif dtype == "F8_E5M2":  # the upper half of a float16
        read = (bits.astype("<u2") << 8).view("<f2")
    elif dtype == "F8_E4M3":
        read = _float8_e4m3(bits)
    else:
        read = bits.view(_VIEWS[dtype])
    return read.astype(np.complex128 if dtype == "C64" else np.float64)


def _float8_e4m3(bits: _Bits) -> NDArray[np.float64]:
    """The variant without infinities (OCP OFP8 specification, 2023): bias 7, NaN where all but the sign is set."""
    exponent, mantissa = (bits >> 3) & 15, (bits & 7) / 8
    size = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent.astype(np.float64) - 7))
    size = np.where(bits & 127 == 127, np.nan, size)
    return np.where(bits & 128, -size, size)
