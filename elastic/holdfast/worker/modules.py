"""What there is to know of a module before it is moved: tensors with several names, and what beside them holds one."""

import gc
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# What holds no tensor, whatever it refers to.
_PLAIN = (bool, int, float, complex, str, bytes, type, ModuleType, torch.dtype, torch.device, torch.layout)
_HAVE_GC = 1 << 14  # CPython's Py_TPFLAGS_HAVE_GC: the objects that an object of this type refers to can be listed


def moved(module: nn.Module, move: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """`move(module)`, after which a parameter or buffer with several names is one tensor still.

    torch makes one anew for each name where it cannot change it in place: all that leave the meta device, and buffers.
    """
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    children = list(module.modules())
    # Parameters first: of one that is a buffer too the buffer would become a tensor like any other.
    tables: list[dict[str, Any]] = [*(child._parameters for child in children), *(child._buffers for child in children)]
    for table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                places.setdefault(id(tensor), []).append((table, name))
    module = move(module)
    for (table, name), *others in places.values():
        for other_table, other_name in others:
            other_table[other_name] = table[name]
    return module


def survives_emptying(module: nn.Module) -> bool:
    """Whether `to_empty` makes of this module, built on the meta device, what a full build is but for its values.

    It does not for memory that different tensors share, for hooks and attributes of a tensor, and for tensors beside
    parameters and buffers: in attributes, containers, closures, or in what cannot be looked into.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not all(map(_is_ordinary, tensors)):
        return False
    if len({tensor.untyped_storage()._cdata for tensor in tensors}) < len({id(tensor) for tensor in tensors}):
        return False
    seen = {id(child) for child in module.modules()}
    for child in module.modules():
        seen |= {id(table) for table in (child._parameters, child._buffers, child._modules)}
    return not any(_may_hold_tensor(value, seen) for child in module.modules() for value in vars(child).values())


def _is_ordinary(tensor: Tensor) -> bool:
    hooks: tuple[Any, ...] = (tensor._backward_hooks, tensor._post_accumulate_grad_hooks)
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not vars(tensor)
        and not any(hooks)
    )


def _may_hold_tensor(value: object, seen: set[int]) -> bool:
    """Whether a tensor can be reached from `value`; `seen`: ids of what is known to hold none, added to."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            return True
        if item is None or isinstance(item, _PLAIN) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, FunctionType):  # not its globals, which are those of a whole file
            waiting += [item.__closure__, item.__defaults__, item.__kwdefaults__, item.__dict__]
        elif type(item).__flags__ & _HAVE_GC:
            waiting += gc.get_referents(item)
        else:
            return True
    return False
