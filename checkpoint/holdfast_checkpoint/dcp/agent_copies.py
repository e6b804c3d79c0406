"""Blobs of one save out of agents' memory: this machine's, else another's; a second copy if the first is corrupt."""

import logging
import os
import threading
from collections.abc import Sequence

from holdfast_checkpoint.agent_messages import Named
from holdfast_checkpoint.dcp.local_agent import LocalAgent
from holdfast_checkpoint.dcp.sources import Source, fill
from holdfast_checkpoint.errors import CheckpointError, CorruptError, NoCheckpointError
from holdfast_checkpoint.manifest import BlobEntry, Manifest, from_json

log = logging.getLogger(__name__)


def agent_copies(agent: LocalAgent, folder: str) -> list[Source]:
    """The nearest copy of each blob, and the one to take if that is corrupt; [] if `folder` is no save of a script."""
    save = Named.of_folder(folder)
    if save is None:
        return []
    first = AgentSource(agent, save)
    return [first, AgentSource(agent, save, doubted=first)]


class AgentSource:
    """`doubted`: whose copies turned out corrupt; the agent looks at its own, and gives another."""

    is_near = True

    def __init__(self, agent: LocalAgent, save: Named, *, doubted: "AgentSource | None" = None) -> None:
        self._agent, self._save, self._doubted = agent, save, doubted
        self._lock = threading.Lock()
        self._found: dict[int, tuple[int, str] | None] = {}

    def what(self, entry: BlobEntry) -> str:
        found = self._found.get(entry.layer)
        where = found[1] if found is not None else "an agent"
        return f"{self._save.folder}/{entry.path} in the memory of {where}"

    def has(self, entry: BlobEntry) -> bool:
        return self._open(entry) is not None

    def read_into(self, entry: BlobEntry, start: int, views: Sequence[memoryview]) -> None:
        found = self._open(entry)
        if found is None:
            raise NoCheckpointError(f"{self.what(entry)} is not there")
        fill(found[0], start, views, self.what(entry), entry.size)

    def close(self) -> None:
        with self._lock:
            for found in self._found.values():
                if found is not None:
                    os.close(found[0])
            self._found.clear()
        self._agent.close()

    def _open(self, entry: BlobEntry) -> tuple[int, str] | None:
        """Once for each blob; another machine's copy is fetched meanwhile."""
        with self._lock:
            if entry.layer not in self._found:
                self._found[entry.layer] = self._ask(entry)
            return self._found[entry.layer]

    def _ask(self, entry: BlobEntry) -> tuple[int, str] | None:
        if self._doubted is not None and not self._doubted.has(entry):
            return None  # nobody had it a moment ago
        try:
            return self._agent.open(self._save, entry.layer, size=entry.size, doubted=self._doubted is not None)
        except NoCheckpointError:
            return None
        except CheckpointError as error:
            log.warning("checkpoint.copy_skipped", extra={"blob": self.what(entry), "error": str(error)})
            return None


def manifest_of(agent: LocalAgent, save: Named) -> Manifest:
    """Raises: CheckpointError: no agent has a sound one."""
    try:
        return _manifest(agent, save, doubted=False)
    except CorruptError as error:
        log.warning("checkpoint.copy_skipped", extra={"blob": f"{save.folder}: manifest", "error": str(error)})
        return _manifest(agent, save, doubted=True)


def _manifest(agent: LocalAgent, save: Named, *, doubted: bool) -> Manifest:
    fd, node = agent.open(save, None, doubted=doubted)
    where = f"the manifest of {save.folder} in the memory of {node}"
    with os.fdopen(fd, "rb") as file:
        manifest = from_json(file.read(), where)
    if (manifest.step, manifest.run) != (save.step, save.run):
        raise CorruptError(f"{where} is of step {manifest.step}, run {manifest.run}")
    return manifest
