"""Holdfast checkpoints for any user of torch.distributed.checkpoint: FSDP2, torchtitan, a script of one's own.

    dcp.save(state, storage_writer=HoldfastWriter(url, step=40))
    dcp.load(state, storage_reader=HoldfastReader(url))

Folders of safetensors blobs and a JSON manifest written last; nothing is pickled, every byte that is read is verified.
"""

from holdfast_checkpoint.dcp.reader import HoldfastReader
from holdfast_checkpoint.dcp.writer import HoldfastWriter

__all__ = ["HoldfastReader", "HoldfastWriter"]
