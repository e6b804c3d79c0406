"""Which checkpoint a rank loads: the newest one, in the memory of agents or under the URL."""

import logging
from collections.abc import Mapping
from typing import Any

from holdfast_checkpoint.agent_messages import PLACE, Named, place_of
from holdfast_checkpoint.dcp.agent_copies import manifest_of
from holdfast_checkpoint.dcp.local_agent import LocalAgent, sights_of
from holdfast_checkpoint.dcp.opened import OpenCheckpoint
from holdfast_checkpoint.errors import CheckpointError, NoCheckpointError, StorageError, UnfinishedError
from holdfast_checkpoint.folders import parts_of
from holdfast_checkpoint.manifest import Manifest
from holdfast_checkpoint.remote import Repository

log = logging.getLogger(__name__)
# To list what is stored, where there is something to load already.
_LISTED_WITHIN_S = 5.0
_OFFERED_MAX = 16


class Finder:
    """Of one load, on one rank. `agent`: None without one."""

    def __init__(
        self, url: str, step: int | None, storage_options: Mapping[str, Any] | None, agent: LocalAgent | None
    ) -> None:
        self._repository = Repository(url, storage_options=storage_options)
        self._listing = Repository(url, storage_options=storage_options, give_up_s=_LISTED_WITHIN_S)
        self._step, self._agent = step, agent
        # Whole in agents' memory, of this URL, and of that step if one is wanted; the newest first.
        self._saves: dict[Named, Manifest] = {}
        self._stored: tuple[str, ...] = ()

    def find(self) -> OpenCheckpoint:
        """The newest sound one: of the highest step, and of several of that step the last. Nothing is read from the
        storage, but the names of what is there, if it is in memory.

        Raises: NoCheckpointError, StorageError.
        """
        self._look_in_memory()
        if self._saves:
            self._list_stored()
        for save in self._saves:
            if any(_rank(folder) > _rank(save.folder) for folder in self._stored):
                break  # a run without agents, perhaps, stored it
            if (opened := self._in_memory(save)) is not None:
                return opened
        try:
            return OpenCheckpoint(self._repository, *self._repository.newest(self._step, self._on_bad), self._agent)
        except CheckpointError:
            # What is stored is not sound, or not to be reached.
            if (opened := next(filter(None, map(self._in_memory, self._saves)), None)) is not None:
                return opened
            raise

    def readable(self, first: OpenCheckpoint) -> tuple[str, ...]:
        """Folders of the checkpoints that this rank can load, `first` and others."""
        others = sorted({*(save.folder for save in self._saves), *self._stored} - {first.folder}, key=_rank)
        return (first.folder, *reversed(others[-_OFFERED_MAX:]))

    def open(self, folder: str) -> OpenCheckpoint:
        """One that another rank chose. Raises: CheckpointError."""
        save = Named.of_folder(folder)
        if save is not None and (opened := self._in_memory(save)) is not None:
            return opened
        return OpenCheckpoint(self._repository, folder, self._repository.read_manifest(folder), self._agent)

    def close(self) -> None:
        """For now: what is asked next connects anew."""
        if self._agent is not None:
            self._agent.close()

    def _look_in_memory(self) -> None:
        if self._agent is None:
            return
        sights = sights_of(self._agent)
        if sights is None:
            self._agent = None
            return
        named = [save.named for save in sights.saves if self._step is None or save.step == self._step]
        named.sort(key=lambda save: _rank(save.folder), reverse=True)
        self._saves = {save: manifest for save in named if (manifest := self._manifest(save)) is not None}

    def _list_stored(self) -> None:
        try:
            found = self._listing.list()
        except StorageError as error:
            log.warning("checkpoint.not_listed", extra={"url": self._repository.url, "error": str(error)})
            return
        self._stored = tuple(
            one.folder for one in found if one.is_committed and (self._step is None or one.step == self._step)
        )

    def _in_memory(self, save: Named) -> OpenCheckpoint | None:
        manifest = self._saves[save] if save in self._saves else self._manifest(save)
        if manifest is None:
            return None
        try:
            return OpenCheckpoint(self._repository, save.folder, manifest, self._agent)
        except CheckpointError as error:
            self._on_bad(save.folder, error)
            return None

    def _manifest(self, save: Named) -> Manifest | None:
        """None: no agent has a sound one, or it is of a save to another URL."""
        if self._agent is None:
            return None
        try:
            manifest = manifest_of(self._agent, save)
        except NoCheckpointError:
            return None
        except CheckpointError as error:
            self._on_bad(save.folder, error)
            return None
        return manifest if manifest.spec.get(PLACE) == place_of(self._repository.url) else None

    def _on_bad(self, folder: str, error: CheckpointError) -> None:
        level = logging.INFO if isinstance(error, UnfinishedError) else logging.WARNING
        extra = {"url": self._repository.url, "folder": folder, "error": str(error)}
        log.log(level, "checkpoint.skipped", extra=extra)


def _rank(folder: str) -> tuple[int, str]:
    """By step, then by time as runs are named for it."""
    step, run, _ = parts_of(folder)
    return step, run
