"""Does a Program hold together, and how large is each layer? Answered on the meta device, without memory or compute.

Run before anything starts, so that a wrong Program is refused with a message that names the layer at fault.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.flop_counter import FlopCounterMode

from holdfast.errors import HoldfastError, ProgramError
from holdfast.model.facts import ActivationSpec, LayerFacts, ParameterFacts, ProgramFacts, TensorSpec
from holdfast.program import Layer, Program, split_parameter
from holdfast.worker.data import Activation, apply_layer, collate
from holdfast.worker.modules import moved
from holdfast.worker.saved import saved_memory


def inspect(program: Program, steps: int = 1) -> ProgramFacts:
    """Build each layer on the meta device and run one meta microbatch through all of them and the loss.

    `steps`: of the job; the rate is asked for the first one and the last.

    Raises:
        ProgramError: the dataset is too short or its samples differ, a layer cannot be built, does not fit the one
            before it, changes its input or its buffers in its forward or makes sparse gradients, the loss does not
            accept the output or is no scalar, nothing can be trained, tied parameters differ, the optimizer cannot be
            built or cannot step, or a rate is no finite number of at least 0.
    """
    inputs, target, size = _first_microbatch(program)
    activation: Activation = inputs if len(inputs) > 1 else inputs[0]
    source = "the dataset"
    layers: list[LayerFacts] = []
    for layer in program.layers:
        facts, activation = _run_layer(layer, activation, source)
        layers.append(facts)
        source = f"layer {layer.name!r}"
    if not any(parameter.spec.requires_grad for layer in layers for parameter in layer.parameters):
        raise ProgramError("layers: no parameter of any layer requires a gradient, so there is nothing to train")
    _check_loss(program, activation, target, source)
    _check_ties(program, layers)
    _check_optimizer(program)
    for step in sorted({0, steps - 1}):
        _check_schedule(program, step)
    return ProgramFacts(
        layers=tuple(layers), target=_describe(target), microbatches=program.microbatches, dataset_size=size
    )


def build_on_meta(layer: Layer) -> nn.Module:
    """The layer's module, with shapes and no storage.

    Raises:
        ProgramError: the factory raised, or made something else than a module, or one without shapes.
    """
    try:
        with torch.device("meta"):
            module: Any = layer.build()
    except Exception as error:  # a factory is the user's code and may raise anything
        raise ProgramError(
            f"layer {layer.name!r}: its factory raised {type(error).__name__} on the meta device, where tensors have "
            f"shapes and no values: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        made = type(module).__name__
        raise ProgramError(f"layer {layer.name!r}: its factory returned {made}; should be an nn.Module")
    lazy = next((name for name, parameter in module.named_parameters() if nn.parameter.is_lazy(parameter)), None)
    if lazy is not None:
        raise ProgramError(
            f"layer {layer.name!r}: its parameter {lazy} has no shape before the first forward, as in LazyLinear; "
            "should have one when it is built, as in Linear(8, 4)"
        )
    # Buffers made from arrays escape the context above.
    return moved(module, lambda module: module.to("meta"))


def _first_microbatch(program: Program) -> tuple[tuple[Tensor, ...], Activation, int]:
    try:
        size = len(program.dataset)
        if size < program.global_batch:
            raise ProgramError(
                f"dataset: it has {size} samples, fewer than one global batch of {program.global_batch}; "
                "use a longer dataset or a smaller global_batch"
            )
        # The last sample is compared too, since that is where ragged data shows most often.
        collate(program.dataset, [0, size - 1])
        inputs, target = collate(program.dataset, range(program.microbatch))
    except HoldfastError:
        raise
    except Exception as error:  # a dataset is the user's code and may raise anything
        raise ProgramError(f"dataset: reading its samples raised {type(error).__name__}: {error}") from error
    on_meta = tuple(tensor.to("meta") for tensor in inputs)
    if isinstance(target, tuple):
        return on_meta, tuple(tensor.to("meta") for tensor in target), size
    return on_meta, target.to("meta"), size


def _run_layer(layer: Layer, activation: Activation, source: str) -> tuple[LayerFacts, Activation]:
    module = build_on_meta(layer)
    _check_factory(layer, module)
    given = _describe(activation)
    activation = _arrived(activation)
    before = [tensor._version for tensor in _parts(activation)]
    versions = {name: buffer._version for name, buffer in module.named_buffers()}
    with FlopCounterMode(display=False) as counter, saved_memory() as saved:
        try:
            output: Any = apply_layer(module, activation)
        except Exception as error:  # a module is the user's code and may raise anything
            raise ProgramError(
                f"layer {layer.name!r} does not accept what {source} made, {given}: {type(error).__name__}: {error}"
            ) from error
    _check_output(layer, output)
    _check_input(layer, before, activation, source)
    _check_gradients(layer, output)
    _check_buffers(layer, module, versions)
    facts = LayerFacts(
        name=layer.name,
        parameters=tuple(
            ParameterFacts(name=name, spec=_describe_tensor(parameter)) for name, parameter in module.named_parameters()
        ),
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in module.buffers()),
        input=given,
        output=_describe(output),
        flops=counter.get_total_flops(),
        cost=float(max(counter.get_total_flops(), 1)),
        saved_bytes=saved.bytes_beside([*module.parameters(), *module.buffers()]),
    )
    trainable = [parameter.name for parameter in facts.parameters if parameter.spec.requires_grad]
    if trainable and not any(tensor.requires_grad for tensor in facts.output.tensors):
        raise ProgramError(
            f"layer {layer.name!r}: it has trainable parameters ({trainable[0]}, ...) but its output, {facts.output}, "
            "carries no gradient, so it could never learn; return a floating-point tensor that depends on them"
        )
    return facts, output


def _check_factory(layer: Layer, module: nn.Module) -> None:
    """A layer is built anew wherever it is placed, so its factory must make the same thing each time."""
    again = build_on_meta(layer)
    if again is module or any(a is b for a, b in zip(module.parameters(), again.parameters(), strict=False)):
        raise ProgramError(
            f"layer {layer.name!r}: its factory returned the same parameters twice; "
            "should build a new module at each call (to share a parameter between layers, use Tied)"
        )
    first, second = (
        {name: str(_describe_tensor(parameter)) for name, parameter in built.named_parameters()}
        for built in (module, again)
    )
    if first != second:
        odd = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        raise ProgramError(
            f"layer {layer.name!r}: two calls of its factory made different parameters ({', '.join(odd[:6])}); "
            "should make the same names, shapes and dtypes at each call"
        )


def _parts(activation: Activation) -> tuple[Tensor, ...]:
    return activation if isinstance(activation, tuple) else (activation,)


def _arrived(activation: Activation) -> Activation:
    """`activation` with no history but that it requires a gradient, as when it comes from another worker."""
    # The clone is no leaf: of those autograd refuses a change in place before it can be told from other errors.
    parts = tuple(part.detach().requires_grad_(part.requires_grad).clone() for part in _parts(activation))
    return parts if isinstance(activation, tuple) else parts[0]


def _check_input(layer: Layer, before: list[int], activation: Activation, source: str) -> None:
    """A layer must work behind any cut, where its input is a leaf, which autograd lets nobody change."""
    changed = [
        str(index)
        for index, (version, tensor) in enumerate(zip(before, _parts(activation), strict=True))
        if tensor._version != version
    ]
    if changed:
        which = f"part {changed[0]} of its input" if isinstance(activation, tuple) else "its input"
        raise ProgramError(
            f"layer {layer.name!r}: its forward changes {which}, which {source} made, in place, and what arrives from "
            "another worker cannot be changed; use operations that make a new tensor, such as ReLU(inplace=False)"
        )


def _check_gradients(layer: Layer, output: Activation) -> None:
    """Gradients are summed and sent as dense tensors. Looks for what makes others in the graph of the forward."""
    waiting: list[Node | None] = [tensor.grad_fn for tensor in _parts(output)]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "_saved_sparse", False) or getattr(node, "_saved_sparse_grad", False):
            raise ProgramError(
                f"layer {layer.name!r}: {node.name()} would make a sparse gradient, as Embedding(sparse=True) does; "
                "only dense ones can be reduced, so use sparse=False"
            )
        waiting += [before for before, _ in node.next_functions]


def _check_buffers(layer: Layer, module: nn.Module, versions: dict[str, int]) -> None:
    """Replicas see different microbatches: what a forward writes into a buffer would differ between them."""
    changed = [name for name, buffer in module.named_buffers() if buffer._version != versions.get(name)]
    norms = [n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    changed += [
        f"{n}.running_mean" for n in norms if getattr(module.get_submodule(n), "running_mean", None) is not None
    ]
    if changed:
        raise ProgramError(
            f"layer {layer.name!r}: its forward changes its buffer {changed[0]}, as running statistics do, and each "
            "replica would change it in its own way; use a layer without them, such as GroupNorm, LayerNorm, or "
            "BatchNorm with track_running_stats=False"
        )


def _check_output(layer: Layer, output: object) -> None:
    parts = output if isinstance(output, tuple) else (output,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        shown = type(output).__name__
        if isinstance(output, tuple):
            shown = f"a tuple of ({', '.join(type(part).__name__ for part in output)})"
        raise ProgramError(f"layer {layer.name!r}: its output is {shown}; should be a tensor or a tuple of tensors")


def _check_loss(program: Program, output: Activation, target: Activation, source: str) -> None:
    try:
        loss: Any = program.loss(output, target)
    except Exception as error:  # the loss is the user's code and may raise anything
        raise ProgramError(
            f"loss: it does not accept the output of {source}, {_describe(output)}, with the dataset's target, "
            f"{_describe(target)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shown = _describe_tensor(loss) if isinstance(loss, Tensor) else type(loss).__name__
        raise ProgramError(f"loss: it returned {shown}; should be a scalar, the mean over the microbatch")
    if not loss.requires_grad:
        raise ProgramError("loss: no gradient flows from it to the layers' output, so nothing could be trained")


def _check_ties(program: Program, layers: list[LayerFacts]) -> None:
    known = {layer.name: {parameter.name: parameter.spec for parameter in layer.parameters} for layer in layers}
    for index, tie in enumerate(program.tied):
        specs = []
        for side, path in (("a", tie.a), ("b", tie.b)):
            layer, name = split_parameter(path)
            if name not in known[layer]:
                raise ProgramError(
                    f"tied[{index}].{side}: layer {layer!r} has no parameter {name!r}; "
                    f"it has {', '.join(known[layer]) or 'none'}"
                )
            specs.append(known[layer][name])
        if specs[0] != specs[1]:
            raise ProgramError(
                f"tied[{index}]: {tie.a} is {_long(specs[0])} and {tie.b} is {_long(specs[1])}; "
                "tied parameters should have the same shape and dtype, and train alike"
            )


def _check_optimizer(program: Program) -> None:
    """It must step as a worker has it step, and its state must be what can be moved."""
    # Real parameters of no size to speak of: on the meta device, fused optimizers refuse to be built.
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    try:
        optimizer: Any = program.optimizer(parameters)
    except Exception as error:  # the user's code may raise anything
        raise ProgramError(f"optimizer: it raised {type(error).__name__} for a matrix and a vector: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ProgramError(f"optimizer: it returned {type(optimizer).__name__}; should be a torch.optim.Optimizer")
    kind = type(optimizer).__name__
    if not all("lr" in group for group in optimizer.param_groups):
        raise ProgramError(f"optimizer: {kind} has parameter groups without 'lr', the rate that lr_schedule scales")
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    try:
        optimizer.step()
    except Exception as error:  # the optimizer may be the user's own
        raise ProgramError(
            f"optimizer: step() of {kind} raised {type(error).__name__} with dense gradients in place: {error}; "
            "use one whose step needs no closure and takes dense gradients, such as AdamW"
        ) from error
    for state in optimizer.state.values():
        for key, value in state.items():
            if not isinstance(value, Tensor) and not _is_json(value):
                raise ProgramError(
                    f"optimizer: {kind} keeps {key!r}, a {type(value).__name__}, for a parameter; should be a tensor "
                    "or a number, since it moves with the parameter"
                )


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_schedule(program: Program, step: int) -> None:
    if program.lr_schedule is None:
        return
    try:
        factor: Any = program.lr_schedule(step)
    except Exception as error:  # the user's code may raise anything
        raise ProgramError(f"lr_schedule: it raised {type(error).__name__} for step {step}: {error}") from error
    if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
        raise ProgramError(f"lr_schedule: it returned {factor!r} for step {step}; should be a number, 0 or more")


def _describe(activation: Activation) -> ActivationSpec:
    return ActivationSpec(
        tensors=tuple(map(_describe_tensor, _parts(activation))), is_tuple=isinstance(activation, tuple)
    )


def _describe_tensor(tensor: Tensor) -> TensorSpec:
    return TensorSpec(
        shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."), requires_grad=tensor.requires_grad
    )


def _long(spec: TensorSpec) -> str:
    return f"{spec}{'' if spec.requires_grad else ' (frozen)'}"
