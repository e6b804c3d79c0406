"""What is known of a Program before it runs: the sizes and shapes of each layer, measured on the meta device.

Pure values. Dtypes are torch's names without the `torch.` ("float32"); all bytes and flops are per microbatch.
"""

from dataclasses import dataclass
from math import prod

_DTYPE_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "complex32": 4, "complex64": 8, "complex128": 16,
}  # fmt: skip

# Parameters, and as much again for each of Adam's two moments. An estimate before any optimizer has been built: SGD
# needs less, and the planner replaces it by what workers measure.
STATE_BYTES_PER_PARAM_BYTE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor's shape and dtype; `requires_grad` says whether a gradient flows back through it."""

    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPE_BYTES:
            raise ValueError(f"dtype: {self.dtype!r} is not one of {', '.join(_DTYPE_BYTES)}")

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return prod(self.shape) * _DTYPE_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationSpec:
    """What passes between layers: a tensor, or a tuple of tensors (`is_tuple`, which may hold only one)."""

    tensors: tuple[TensorSpec, ...]
    is_tuple: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.tensors))
        return f"a tuple ({listed})" if self.is_tuple else listed


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterFacts:
    """One parameter, by its name within its layer; `spec.requires_grad` is False for a frozen one."""

    name: str
    spec: TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """One layer, for one microbatch. `saved_bytes`: what autograd keeps of its forward for its backward.

    `cost` is relative and unitless, at first the forward flops; the planner replaces it by measured seconds.
    """

    name: str
    parameters: tuple[ParameterFacts, ...]
    buffer_bytes: int
    input: ActivationSpec
    output: ActivationSpec
    flops: int
    cost: float
    saved_bytes: int

    @property
    def param_bytes(self) -> int:
        """Bytes of all parameters, frozen ones too."""
        return sum(parameter.spec.size_bytes for parameter in self.parameters)

    @property
    def param_count(self) -> int:
        """Number of scalars in all parameters."""
        return sum(prod(parameter.spec.shape) for parameter in self.parameters)

    @property
    def output_bytes(self) -> int:
        """Bytes that a stage boundary after this layer sends for each microbatch."""
        return self.output.size_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes that move when the layer moves: parameters, buffers and an estimate of the optimizer's state."""
        return STATE_BYTES_PER_PARAM_BYTE * self.param_bytes + self.buffer_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFacts:
    """A whole Program; `layers` in the order in which they run."""

    layers: tuple[LayerFacts, ...]
    target: ActivationSpec
    microbatches: int
    dataset_size: int

    @property
    def input(self) -> ActivationSpec:
        """What the first layer takes."""
        return self.layers[0].input

    @property
    def param_count(self) -> int:
        """Number of scalars in all parameters; the two sides of a tie count twice."""
        return sum(layer.param_count for layer in self.layers)
