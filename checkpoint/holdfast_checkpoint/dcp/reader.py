"""Loads a Holdfast checkpoint through torch.distributed.checkpoint, onto any number of ranks in any sharding."""

import logging
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch.distributed.checkpoint import LoadPlan, LoadPlanner, StorageReader
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from torch.futures import Future

from holdfast_checkpoint.dcp.agreeing import chosen_folder
from holdfast_checkpoint.dcp.finding import Finder
from holdfast_checkpoint.dcp.local_agent import local_agent
from holdfast_checkpoint.dcp.objects import packed
from holdfast_checkpoint.dcp.opened import Box, OpenCheckpoint
from holdfast_checkpoint.dcp.saved import SavedChunk, SavedState, SavedTensor
from holdfast_checkpoint.dtypes import dtype_of
from holdfast_checkpoint.errors import StorageBusyError
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)


class HoldfastReader(StorageReader):
    """For one `dcp.load`, on every rank alike; `step`: of the checkpoint, else the newest sound one.

    Every byte is verified before the load succeeds, and all ranks see the error of one. A load that failed leaves
    what it was to fill undefined, as that of every StorageReader does: load again, or begin anew.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        step: int | None = None,
        *,
        agent: str | os.PathLike[str] | None = None,
        script: str | None = None,
        threads: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """`agent`: the socket of this machine's agent, else HOLDFAST_AGENT; what it and others hold in memory is taken
        before what is stored, if it was saved to this URL. `script`: as the writer's. `threads`: that read at once
        (default: as many as there are cores, up to 8)."""
        self._url, self._wanted_step, self._threads = os.fspath(url), step, threads
        self._agent_path, self._script, self._storage_options = agent, script, storage_options
        self._error: Exception | None = None
        self._finder: Finder | None = None
        self._opened: OpenCheckpoint | None = None

    @property
    def step(self) -> int:
        """Of the checkpoint that was loaded."""
        return self._checkpoint().manifest.step

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A `checkpoint_id` given to `dcp.load` takes the place of the URL."""
        if checkpoint_id is not None:
            self._url = os.fspath(checkpoint_id)
        self._error, self._finder, self._opened = None, None, None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        # An error here is not raised: it would make torch look for another kind of checkpoint, on this rank alone,
        # and the ranks would wait for each other for ever. `set_up_storage_reader`, right after, raises it.
        try:
            url = Repository(self._url, storage_options=self._storage_options).url
            agent = local_agent(self._agent_path, url, self._script)
            self._finder = Finder(self._url, self._wanted_step, self._storage_options, agent)
            # No file stays open: torch may fail before it comes to `read_data`, and tells nobody.
            with closing(self._finder), self._finder.find() as self._opened:
                return _metadata(self._opened.state)
        except Exception as error:  # of the storage, of its client, of a manifest; raised a moment later
            self._error = error
            return Metadata(state_dict_metadata={})

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if self._error is not None:
            raise self._error

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        assert self._finder is not None, "the metadata were read"
        return replace(plan, storage_data=self._finder.readable(self._checkpoint()))

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """All ranks take the coordinator's checkpoint: a newer one may have been committed while they looked. Unless a
        rank cannot read that one, since it was left with agents and that rank has none."""
        folder = chosen_folder(self._checkpoint().folder, [plan.storage_data for plan in plans])
        return [replace(plan, storage_data=folder) for plan in plans]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        assert self._finder is not None, "the metadata were read"
        with closing(self._finder):
            opened = self._opened = _as_planned(self._finder, self._checkpoint(), plan.storage_data)
            with opened:
                filled = _fill(opened, plan, planner, self._threads)
        for item, target in filled:
            planner.commit_tensor(item, target)
        log.info("checkpoint.loaded", extra={"url": self._url, "folder": opened.folder, "step": self.step})
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """torch asks this of the classes it knows; it never chooses this one by itself."""
        return False

    def _checkpoint(self) -> OpenCheckpoint:
        if self._opened is None:
            raise ValueError("nothing is loaded yet: pass this reader to torch.distributed.checkpoint.load first")
        return self._opened


def _as_planned(finder: Finder, opened: OpenCheckpoint, folder: str) -> OpenCheckpoint:
    """The coordinator's checkpoint; for a rank that saw another one, and planned its reads by that, if they fit."""
    if folder == opened.folder:
        return opened
    opened.close()
    other = finder.open(folder)
    if _shapes(other.state) != _shapes(opened.state):
        other.close()
        raise StorageBusyError(
            f"{opened.repository.url}: ranks saw different newest checkpoints, {opened.folder} and {folder}, since one "
            "was committed while they looked; load again, or give the step"
        )
    return other


def _fill(
    opened: OpenCheckpoint, plan: LoadPlan, planner: LoadPlanner, threads: int | None
) -> list[tuple[ReadItem, torch.Tensor]]:
    """All tensors of the plan, read, with their items; objects are with the planner already."""
    boxes, filled = [], []
    for item in plan.items:
        name = item.storage_index.fqn
        if item.type == LoadItemType.BYTE_IO:
            planner.load_bytes(item, packed(opened.state.objects[name]))
            continue
        target = planner.resolve_tensor(item).detach()
        if target.shape != item.lengths:
            raise ValueError(
                f"{name!r}: the planner gave {list(target.shape)} to fill, and planned {list(item.lengths)}"
            )
        chunk = _chunk(opened.state.tensors[name], item.storage_index)
        boxes.append(Box(name=name, chunk=chunk, offsets=tuple(item.storage_offsets), target=target))
        filled.append((item, target))
    opened.read(boxes, threads)
    return filled


def _shapes(state: SavedState) -> Mapping[str, object]:
    return {
        name: (tensor.shape, tensor.dtype, tuple((chunk.offsets, chunk.sizes) for chunk in tensor.chunks))
        for name, tensor in state.tensors.items()
    }


def _metadata(state: SavedState) -> Metadata:
    entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {
        name: TensorStorageMetadata(
            properties=TensorProperties(dtype=dtype_of(tensor.dtype)),
            size=torch.Size(tensor.shape),
            chunks=[ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.sizes)) for c in tensor.chunks],
        )
        for name, tensor in state.tensors.items()
    }
    entries |= {name: BytesStorageMetadata() for name in state.objects}
    return Metadata(state_dict_metadata=entries, planner_data=dict(state.paths))


def _chunk(tensor: SavedTensor, index: MetadataIndex) -> SavedChunk:
    """The hint is tried first."""
    offsets = tuple(index.offset or ())
    if index.index is not None and index.index < len(tensor.chunks) and tensor.chunks[index.index].offsets == offsets:
        return tensor.chunks[index.index]
    return next(chunk for chunk in tensor.chunks if chunk.offsets == offsets)
