"""Moves whole layers between workers: a header that says what comes, then each tensor as it lies in memory.

What lies on the CPU beside a layer on a GPU (optimizers keep counters there) travels by way of the GPU, since NCCL
carries nothing else, and is put back on the CPU.

Messages between two workers follow the order of the plan's transfers, which is the same on both sides. Headers of
all layers travel first, so that every receive of the bulk is posted before the first byte is sent.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import ProtocolError
from holdfast.model.heartbeat import Phase
from holdfast.model.ids import SlotId
from holdfast.model.records import Transfer
from holdfast.worker.comm import Comm
from holdfast.worker.layers import HeldLayer
from holdfast.worker.process_groups import Message

TRANSFER = "transfer"
_HEADER_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Moved:
    """What arrived: layers by index, and bytes by source."""

    layers: dict[int, HeldLayer]
    received: dict[SlotId, int]


def transfer_ranks(transfers: Sequence[Transfer]) -> tuple[SlotId, ...]:
    """Members of the transfer group in rank order."""
    return tuple(sorted({slot for t in transfers for slot in (t.source, t.target)}))


def move_layers(
    comm: Comm,
    me: SlotId,
    transfers: Sequence[Transfer],
    held: Mapping[int, HeldLayer],
    make_blank: Callable[[int], HeldLayer],
    device: torch.device,
) -> Moved:
    """Carry out this worker's part of `transfers`; collective over `transfer_ranks`.

    `device`: of the layers, and of what the backend carries.

    Raises:
        CommunicationError: a peer was lost, or an abort; nothing is kept.
    """
    ranks = {slot: rank for rank, slot in enumerate(transfer_ranks(transfers))}
    outgoing = [t for t in transfers if t.source == me]
    incoming = [t for t in transfers if t.target == me]
    headers = _exchange_headers(comm, ranks, outgoing, incoming, held, device)
    sends: list[Message] = []
    for transfer in outgoing:
        tensors = held[transfer.layer].tensors().values()
        sends += [(ranks[transfer.target], _as_bytes(tensor.to(device))) for tensor in tensors]
    receives: list[Message] = []
    arrivals: dict[int, dict[str, Tensor]] = {}
    received: dict[SlotId, int] = {}
    for transfer, header in zip(incoming, headers, strict=True):
        arrivals[transfer.layer] = {}
        for name, (dtype, shape, _) in header["tensors"].items():
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            arrivals[transfer.layer][name] = tensor
            receives.append((ranks[transfer.source], _as_bytes(tensor)))
            received[transfer.source] = received.get(transfer.source, 0) + tensor.nbytes
    comm.exchange(TRANSFER, sends, receives)
    layers: dict[int, HeldLayer] = {}
    for transfer, header in zip(incoming, headers, strict=True):
        comm.enter(Phase.COMPUTE)
        layers[transfer.layer] = make_blank(transfer.layer)
        layers[transfer.layer].load(_put_back(arrivals.pop(transfer.layer), header), header["scalars"])
    comm.enter(Phase.COMPUTE)
    return Moved(layers, received)


def _put_back(arrived: Mapping[str, Tensor], header: Mapping[str, Any]) -> dict[str, Tensor]:
    """What lay on the source's CPU lies on this one's."""
    return {name: tensor.cpu() if header["tensors"][name][2] == "cpu" else tensor for name, tensor in arrived.items()}


def _exchange_headers(
    comm: Comm,
    ranks: Mapping[SlotId, int],
    outgoing: Sequence[Transfer],
    incoming: Sequence[Transfer],
    held: Mapping[int, HeldLayer],
    device: torch.device,
) -> list[dict[str, Any]]:
    texts = [json.dumps(_header(held[t.layer])).encode() for t in outgoing]
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in incoming]
    comm.exchange(
        TRANSFER,
        [
            (ranks[t.target], torch.tensor([len(text)], dtype=torch.int64, device=device))
            for t, text in zip(outgoing, texts, strict=True)
        ],
        [(ranks[t.source], size) for t, size in zip(incoming, sizes, strict=True)],
    )
    if any(not 0 < int(size) <= _HEADER_BYTES_MAX for size in sizes):
        raise ProtocolError(f"a layer's header is {[int(size) for size in sizes]} bytes; at most {_HEADER_BYTES_MAX}")
    buffers = [torch.empty(int(size), dtype=torch.uint8, device=device) for size in sizes]
    comm.exchange(
        TRANSFER,
        [
            (ranks[t.target], torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device))
            for t, text in zip(outgoing, texts, strict=True)
        ],
        [(ranks[t.source], buffer) for t, buffer in zip(incoming, buffers, strict=True)],
    )
    return [json.loads(bytes(buffer.cpu().numpy())) for buffer in buffers]


def _header(layer: HeldLayer) -> dict[str, Any]:
    tensors = {
        name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.device.type)
        for name, tensor in layer.tensors().items()
    }
    return {"tensors": tensors, "scalars": layer.scalars()}


def _as_bytes(tensor: Tensor) -> Tensor:
    """A flat byte view of `tensor`; of a copy where it is not contiguous (the sender's side only)."""
    return tensor.contiguous().view(-1).view(torch.uint8)
