"""What a user writes: a `Program`, the model as named layers and how it is trained.

Imports no torch, so that an agent, which never touches a tensor, can read a Program's sizes. Everything that can
be checked without torch is checked where a Program is built; `worker.facts.inspect` checks the rest.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.errors import HoldfastError, ProgramError, SpecError, UserCodeError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_LAYER_NAME = re.compile(r"[A-Za-z0-9_-]+")


class SampleSource(Protocol):
    """Random access to samples: any map-style `torch.utils.data.Dataset` of a known length.

    Sample `i` is `(input, target)`, each a tensor or a tuple of tensors, of the same shapes and dtypes for every
    `i`, and always the same values: a sample may be read by several processes, and again after a loss.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The unit that is placed on a slot, moved and saved.

    `build` makes a new module at each call, with the same parameter names; it is called on the meta device too.
    The module is called as `module(*activation)` where the layer before returned a tuple (the first layer: where
    a sample's input is one), otherwise as `module(activation)`. It leaves its input as it is and makes dense gradients.
    """

    name: str
    build: Callable[[], nn.Module]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tied:
    """Two parameters of different layers that share one value, each written `layer.path.of.parameter`.

    The shared value starts as `a`'s; where ties form a chain, as that of the parameter named first. Both are trained,
    or both are frozen.
    """

    a: str
    b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A model and how it is trained.

    `loss(output, target)` is the mean over one microbatch, a scalar. `optimizer` may be called once for all
    parameters of a process or once per layer, so it must treat each parameter by itself (as all of torch.optim's
    element-wise ones do); its `step` takes no closure. `lr_schedule` maps the zero-based step to a factor of at least 0
    on each group's initial rate, as `LambdaLR` does. `clip_grad_norm` bounds the L2 norm of the whole model's gradient.

    Raises:
        ProgramError: a field is wrong; the message lists every wrong one with its value and what would be right.
    """

    layers: tuple[Layer, ...]
    loss: Callable[[Any, Any], Tensor]
    dataset: SampleSource
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    global_batch: int
    microbatch: int
    lr_schedule: Callable[[int], float] | None = None
    clip_grad_norm: float | None = None
    seed: int = 0
    tied: tuple[Tied, ...] = ()

    def __post_init__(self) -> None:
        problems = [*_layer_problems(self.layers), *_callable_problems(self), *_number_problems(self)]
        # Ties are read against the layers, so they say nothing useful while those are wrong.
        problems = problems or list(_tie_problems(self))
        if problems:
            raise ProgramError("the Program is wrong:\n" + "\n".join(f"  {problem}" for problem in problems))

    @property
    def microbatches(self) -> int:
        """Microbatches in a global batch."""
        return self.global_batch // self.microbatch

    @property
    def tie_groups(self) -> list[list[str]]:
        """Parameter paths that share one value, each group in the order in which `tied` names them."""
        groups: list[list[str]] = []
        for tie in self.tied:
            joined = [group for group in groups if tie.a in group or tie.b in group]
            merged = [path for group in joined for path in group]
            merged += [path for path in (tie.a, tie.b) if path not in merged]
            groups = [group for group in groups if group not in joined] + [merged]
        return groups

    def blocks(self, block: int) -> int:
        """Number of blocks in a global batch when a block is `block` microbatches.

        Raises:
            ProgramError: the blocks do not fill the global batch exactly.
        """
        if self.microbatches % block:
            divisors = [d for d in range(1, self.microbatches + 1) if self.microbatches % d == 0]
            raise ProgramError(
                f"block: {block} does not divide the {self.microbatches} microbatches of a global batch "
                f"({self.global_batch} / {self.microbatch}); use one of {_listed(divisors)}"
            )
        return self.microbatches // block


def split_parameter(path: str) -> tuple[str, str]:
    """`layer.path.of.parameter` as layer name and the parameter's name in its layer; layer names hold no dot."""
    layer, _, parameter = path.partition(".")
    return layer, parameter


def load_program(entry: str, params: dict[str, Any], base: Path) -> Program:
    """Call `entry` with `params` and return the Program it makes.

    `entry` is `module:function` or `path/file.py:function`, the path relative to `base` (the spec file's folder).
    As for a script, the folder that holds the code (for a module: `base`) comes first on the import path.

    Raises:
        ProgramError: the entry cannot be found, does not take these parameters, or makes no valid Program.
        UserCodeError: the user's code raised; its exception is the cause.
    """
    where, _, name = entry.rpartition(":")
    if not where or not name.isidentifier():
        raise ProgramError(f"program.entry: {entry!r} given; should be 'module:function' or 'path/file.py:function'")
    module = _load_file(entry, base / where) if where.endswith(".py") else _load_module(entry, where, base)
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise ProgramError(f"program.entry: {where} has no function {name!r}; {_suggestion(name, functions)}")
    _check_parameters(entry, function, params)
    with _user_code(entry, f"{name}() raised"):
        program = function(**params)
    if not isinstance(program, Program):
        raise ProgramError(f"program.entry: {entry} returned {_shown(program)}; should return a holdfast Program")
    return program


def with_batch(program: Program, size: int | None, microbatch: int | None) -> Program:
    """The Program with the batch that a spec gives in place of its own; None: its own stays.

    Raises:
        SpecError: the two do not fit.
    """
    global_batch, micro = size or program.global_batch, microbatch or program.microbatch
    if global_batch % micro:
        below = global_batch // micro * micro
        given = {"size": size, "microbatch": microbatch}
        said = ", ".join(f"batch.{name}: {value} given" for name, value in given.items() if value)
        raise SpecError(
            f"{said}; a batch of {global_batch} is not a multiple of microbatch {micro}; "
            f"for this microbatch use size {_listed([fitting for fitting in (below, below + micro) if fitting])}"
        )
    return replace(program, global_batch=global_batch, microbatch=micro)


def _load_file(entry: str, path: Path) -> ModuleType:
    try:
        is_there = path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise ProgramError(f"program.entry: {entry!r}: {path.absolute()}: {error.strerror}") from error
    if not is_there:
        raise ProgramError(f"program.entry: {entry!r}: there is no file {path.absolute()}")
    path = path.resolve()
    _put_first_on_import_path(path.parent)
    # A name of its own, so that a user's gpt.py neither hides nor is hidden by an installed package gpt.
    spec = importlib.util.spec_from_file_location(f"_holdfast_program_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a name that ends in .py always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    with _user_code(entry, "importing it raised"):
        spec.loader.exec_module(module)
    return module


def _load_module(entry: str, name: str, base: Path) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ProgramError(
            f"program.entry: {entry!r}: {name!r} is no module's name; should be 'module:function', as in an import, or "
            "'path/file.py:function'"
        )
    _put_first_on_import_path(base.resolve())
    with _user_code(entry, "importing it raised"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that the user's module imports in vain is the user's error, with its traceback.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ProgramError(
                f"program.entry: {entry!r}: there is no module {error.name!r}, neither installed nor in "
                f"{base.absolute()}; for a file, write 'path/file.py:function'"
            ) from error


def _check_parameters(entry: str, function: Callable[..., Any], params: dict[str, Any]) -> None:
    signature = inspect.signature(function)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    problems = [
        f"program.params.{name}: {_shown(value)} given, but {entry} takes no {name!r}; {_suggestion(name, list(named))}"
        for name, value in params.items()
        if name not in named and inspect.Parameter.VAR_KEYWORD not in kinds
    ] + [
        f"program.params.{name}: missing; {entry} needs it"
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in params
    ]
    if problems:
        raise ProgramError("\n".join(problems))


@contextlib.contextmanager
def _user_code(entry: str, what: str) -> Iterator[None]:
    """Turn what the user's code raises into a `UserCodeError`; refusals by Holdfast itself pass."""
    try:
        yield
    except HoldfastError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and all of it is reported alike
        raise UserCodeError(f"program.entry: {entry}: {what} {type(error).__name__}: {error}") from error


def _put_first_on_import_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {_listed(known) or 'none'}"


def _layer_problems(layers: object) -> Iterator[str]:
    if not isinstance(layers, tuple) or not layers:
        yield f"layers: {_shown(layers)} given; should be a tuple of at least one Layer"
        return
    seen: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            yield f"layers[{index}]: {_shown(layer)} given; should be a Layer(name=..., build=...)"
            continue
        if not isinstance(layer.name, str) or not _LAYER_NAME.fullmatch(layer.name):
            yield (
                f"layers[{index}].name: {layer.name!r} given; "
                "should be one or more of the letters A-Z a-z, digits, '_' and '-'"
            )
        elif layer.name in seen:
            yield f"layers[{index}].name: {layer.name!r} is taken by layers[{seen[layer.name]}]; names must differ"
        seen.setdefault(layer.name, index)
        if not callable(layer.build):
            yield f"layers[{index}].build: {_shown(layer.build)} given; should be a function that builds the module"


def _callable_problems(program: Program) -> Iterator[str]:
    for name, meaning in (
        ("loss", "a function of output and target"),
        ("optimizer", "a function of a list of parameters that makes their torch.optim optimizer"),
    ):
        if not callable(getattr(program, name)):
            yield f"{name}: {_shown(getattr(program, name))} given; should be {meaning}"
    if program.lr_schedule is not None and not callable(program.lr_schedule):
        yield f"lr_schedule: {_shown(program.lr_schedule)} given; should be a function of the step, or None"
    if not hasattr(program.dataset, "__len__") or not hasattr(program.dataset, "__getitem__"):
        yield f"dataset: {_shown(program.dataset)} given; should have len() and dataset[i] -> (input, target)"


def _number_problems(program: Program) -> Iterator[str]:
    sizes = {name: getattr(program, name) for name in ("global_batch", "microbatch")}
    wrong = {name: size for name, size in sizes.items() if not _is_int(size) or size < 1}
    yield from (f"{name}: {_shown(size)} given; should be a whole number above 0" for name, size in wrong.items())
    if not wrong and program.global_batch % program.microbatch:
        below = program.global_batch // program.microbatch * program.microbatch
        yield (
            f"global_batch: {program.global_batch} is not a multiple of microbatch {program.microbatch}; "
            f"use {_listed([size for size in (below, below + program.microbatch) if size])}"
        )
    clip = program.clip_grad_norm
    if clip is not None and (not isinstance(clip, int | float) or isinstance(clip, bool) or not clip > 0):
        yield f"clip_grad_norm: {_shown(clip)} given; should be a number above 0, or None for no clipping"
    if not _is_int(program.seed):
        yield f"seed: {_shown(program.seed)} given; should be a whole number"


def _tie_problems(program: Program) -> Iterator[str]:
    if not isinstance(program.tied, tuple):
        yield f"tied: {_shown(program.tied)} given; should be a tuple of Tied"
        return
    names = [layer.name for layer in program.layers]
    for index, tie in enumerate(program.tied):
        if not isinstance(tie, Tied):
            yield f"tied[{index}]: {_shown(tie)} given; should be a Tied(a=..., b=...)"
            continue
        found = []
        for side in fields(tie):
            path = getattr(tie, side.name)
            layer, parameter = split_parameter(path) if isinstance(path, str) else ("", "")
            found.append(layer)
            if not layer or not parameter:
                yield f"tied[{index}].{side.name}: {path!r} given; should be 'layer.path.of.parameter'"
            elif layer not in names:
                yield f"tied[{index}].{side.name}: {path!r} names no layer; the layers are {_listed(names)}"
        if found[0] and found[0] == found[1]:
            yield (
                f"tied[{index}]: both sides lie in layer {found[0]!r}; "
                "share the parameter inside the module instead, only two layers need a Tied"
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """`value` short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({type(value).__name__})"


def _listed(items: list[Any]) -> str:
    shown = [str(item) for item in items]
    return ", ".join(shown[:12] + ["..."] * (len(shown) > 12))
