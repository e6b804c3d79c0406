"""Saves through torch.distributed.checkpoint as a Holdfast checkpoint: blobs of each rank, then one manifest."""

import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import torch
from torch.distributed.checkpoint import SavePlan, SavePlanner, StorageWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from holdfast_checkpoint.agent_messages import PLACE, Named, place_of
from holdfast_checkpoint.dcp.agreeing import AgentView, Handing, agreed
from holdfast_checkpoint.dcp.committing import WrittenObject, WrittenTensor, identity_of
from holdfast_checkpoint.dcp.handing import Handover
from holdfast_checkpoint.dcp.host_memory import Create, HostMemory
from holdfast_checkpoint.dcp.local_agent import LocalAgent, local_agent, sights_of
from holdfast_checkpoint.dcp.objects import unpacked
from holdfast_checkpoint.dcp.packing import Part, grouped
from holdfast_checkpoint.dcp.storing import BlobStore, StoredBlob
from holdfast_checkpoint.manifest import BlobEntry, Manifest
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)
BLOB_BYTES = 512 << 20
# A save waits so long until the one before has its copies on other machines: else agents would have to choose between
# one that is safe and one that is newer.
_COPIED_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What the coordinator tells a rank about this save. `number`: of its first blob, of `blobs` in all. `is_stored`:
    under the URL, not with agents alone."""

    save: Named
    number: int
    blobs: int
    handing: Handing
    is_stored: bool


class HoldfastWriter(StorageWriter):
    """For one `dcp.save` or `dcp.async_save` of `step`, on every rank alike.

    Each save gets a folder of its own and counts once its manifest is there, written by the coordinator after all
    ranks' blobs; until then, and if it fails, the newest checkpoint is the one before.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        step: int,
        job: str = "dcp",
        memory: bool = False,
        remote: bool = True,
        agent: str | os.PathLike[str] | None = None,
        script: str | None = None,
        blob_bytes: int = BLOB_BYTES,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """`agent`: the socket of this machine's agent (`holdfast keep`), else HOLDFAST_AGENT; it takes the save over
        and gives copies to other machines. `memory`: without agents, leave copies in this host's shared memory, for
        ranks that restart here (one save's worth). `remote`: False leaves the save with the agents alone, for those
        between two that are stored; where a rank has no agent it is stored all the same. `script`: by which agents know
        which saves follow on each other, and so which to give up; the same for all saves of a run, of no other run, and
        for its readers. By default it is the URL, without a last part that names a step (`step-40`).

        `blob_bytes`: of a blob, about; twice as much is needed beside the state while it is written.
        """
        if step < 0 or blob_bytes < 1:
            raise ValueError(f"step={step} and blob_bytes={blob_bytes}: a step is 0 or more, a blob has 1 byte or more")
        self._url, self._step, self._job = os.fspath(url), step, job
        self._memory, self._remote, self._agent_path, self._script = memory, remote, agent, script
        self._blob_bytes, self._storage_options = blob_bytes, storage_options
        self._rank, self._ranks = 0, 1
        self._start: _Start | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A `checkpoint_id` given to `dcp.save` takes the place of the URL."""
        if checkpoint_id is not None:
            self._url = os.fspath(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("use_collectives", True):
            raise ValueError("use_collectives=False: nobody would know when all ranks have written; leave it at True")
        is_alone = not torch.distributed.is_initialized()
        self._rank = kwargs.get("rank", 0 if is_alone else torch.distributed.get_rank())
        # Of all processes, not of the group that saves alone: no torch gives a rank a number beyond that.
        self._ranks = 1 if is_alone else torch.distributed.get_world_size()

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        _refuse_cached(plan)
        agent = self._agent()
        if agent is None:
            return plan
        with closing(agent):
            sights = sights_of(agent, copied_s=_COPIED_S)
        if sights is None:
            return plan
        return replace(plan, storage_data=AgentView(saves=sights.saves, is_copying=sights.is_copying))

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        for plan in plans:
            _refuse_cached(plan)
        handing = agreed([plan.storage_data for plan in plans])
        if handing.without not in (0, len(plans)) or (handing.without and not self._remote):
            extra = {"url": self._url, "step": self._step, "ranks": handing.without}
            log.warning("checkpoint.ranks_without_agent", extra=extra)
        counts = [sum(1 for _ in grouped(plan.items, self._blob_bytes)) for plan in plans]
        start = _Start(
            save=Named.now(self._step, handing.newest),
            number=0,
            blobs=sum(counts),
            handing=handing,
            is_stored=self._remote or not handing.is_kept,
        )
        self._start = start
        firsts = accumulate(counts, initial=0)
        return [
            replace(plan, storage_data=replace(start, number=number))
            for plan, number in zip(plans, firsts, strict=False)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        start = plan.storage_data
        assert isinstance(start, _Start), "prepare_global_plan made it"
        # Objects first: one that cannot be stored is told before anything is written.
        results = [_object(item, planner) for item in plan.items if item.type == WriteItemType.BYTE_IO]
        results += self._write_blobs(start, plan.items, planner)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self._start is not None, "the coordinator made the plans"
        flat = [result for of_rank in results for result in of_rank]
        identity, blobs = identity_of(metadata, flat)
        manifest = Manifest(
            step=self._step,
            generation=0,
            run=self._start.save.run,
            job=self._job,
            samples=0,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            identity=identity,
            spec={PLACE: place_of(self._repository().url)},
            blobs=blobs,
            versions={"torch": str(torch.__version__)},
        )
        folder = self._start.save.folder
        if self._start.is_stored:
            self._repository().commit(folder, manifest)
        if (handover := self._handover(self._start)) is not None:
            with closing(handover):
                handover.manifest(manifest)
        log.info("checkpoint.committed", extra={"url": self._url, "folder": folder, "step": self._step})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """torch asks this of the classes it knows; it never chooses this one by itself."""
        return False

    def _repository(self) -> Repository:
        return Repository(self._url, storage_options=self._storage_options)

    def _agent(self) -> LocalAgent | None:
        return local_agent(self._agent_path, self._repository().url, self._script)

    def _handover(self, start: _Start) -> Handover | None:
        agent = self._agent() if start.handing.is_kept else None
        if agent is None:
            return None
        return Handover(agent, start.save, self._rank, is_only=not start.is_stored)

    def _copies(self, start: _Start, handover: Handover | None) -> AbstractContextManager[Create | None]:
        """Around this rank's part of the save: its copies in this host's memory, if it is to leave any."""
        if not self._memory or not start.is_stored or handover is not None:
            return nullcontext()
        return HostMemory(self._repository().url).saving(self._rank, self._ranks, start.save.folder)

    def _write_blobs(self, start: _Start, items: Sequence[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        handover = self._handover(start)
        if handover is None:
            return self._store(start, items, planner, None)
        with closing(handover):
            handover.begin(start.blobs, start.handing.kept)
            return self._store(start, items, planner, handover)

    def _store(
        self, start: _Start, items: Sequence[WriteItem], planner: SavePlanner, handover: Handover | None
    ) -> list[WriteResult]:
        groups = list(grouped(items, self._blob_bytes))
        repository = self._repository() if start.is_stored else None
        made: list[list[Part]] = []

        def resolved() -> Iterator[list[Part]]:
            for group in groups:
                parts = [_part(item, planner) for item in group]
                # Without the data: what a planner made for this blob alone may go once it is stored.
                made.append([replace(part, tensor=part.tensor.to("meta")) for part in parts])
                yield parts

        with self._copies(start, handover) as create:
            store = BlobStore(repository, start.save.folder, self._step, self._rank, create, handover)
            stored = store.store(start.number, resolved())
        return [
            result
            for group, parts, blob in zip(groups, made, stored, strict=True)
            for result in _told(group, parts, blob)
        ]


def _refuse_cached(plan: SavePlan) -> None:
    """A plan that is not usable stands for the one of an earlier save, with that save's folder in it."""
    if not getattr(plan, "usable", True):  # torch before 2.7 has no such thing
        raise ValueError("enable_plan_caching=True: cached plans name the folder of an earlier save; leave it off")


def _part(item: WriteItem, planner: SavePlanner) -> Part:
    data, tensor = item.tensor_data, planner.resolve_data(item)
    assert data is not None and isinstance(tensor, torch.Tensor), "the plan says that it is a tensor"
    if tensor.shape != data.chunk.sizes or tensor.layout != torch.strided:
        raise ValueError(
            f"tensor {item.index.fqn!r} is {tensor.layout} of shape {list(tensor.shape)}, and the plan has dense "
            f"{list(data.chunk.sizes)}; save dense tensors that do not change their shape while they are saved"
        )
    return Part(key=item.index.fqn, offsets=tuple(data.chunk.offsets), shape=tuple(data.size), tensor=tensor)


def _object(item: WriteItem, planner: SavePlanner) -> WriteResult:
    name = item.index.fqn
    try:
        data = planner.resolve_data(item)
    except Exception as error:  # pickling runs the object's own code, which may raise anything
        raise ValueError(
            f"{name!r} is no JSON value; make it a tensor, or leave it out of the state ({error!r})"
        ) from error
    assert isinstance(data, io.BytesIO), "the plan says that it is none"
    written = WrittenObject(value=unpacked(data, repr(name)))
    return WriteResult(index=item.index, size_in_bytes=0, storage_data=written)


def _told(items: Sequence[WriteItem], parts: Sequence[Part], blob: StoredBlob) -> Iterator[WriteResult]:
    entry: BlobEntry | None = blob.entry
    for item, part in zip(items, parts, strict=True):
        size = part.tensor.numel() * part.tensor.element_size()
        start = blob.starts[part.name]
        written = WrittenTensor(blob=blob.entry.layer, start=start, dtype=part.dtype, entry=entry)
        yield WriteResult(index=item.index, size_in_bytes=size, storage_data=written)
        entry = None
