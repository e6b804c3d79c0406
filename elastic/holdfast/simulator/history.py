"""What a job has decided and committed so far: which versions belong to it, and which of them is to be found."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.model.records import GenerationRecord, StartRecord, Version
from holdfast.simulator.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """As the checkers write it down; all of it grows. `commits`: loss by version, as workers had it."""

    layers: int
    generations: Sequence[GenerationRecord]
    starts: Mapping[int, StartRecord]
    commits: Mapping[Version, float]

    def has(self, version: Version) -> bool:
        """Against all starts, not a shortened lineage."""
        return not any(
            s.generation > version.generation and s.version.step < version.step for s in self.starts.values()
        )

    def newest(
        self, workers: Iterable[Worker], known: Collection[Version], stored: Mapping[Version, Collection[int]]
    ) -> Version | None:
        """The newest version of the history that all layers are found at, by what the workers really hold, and by what
        is `stored`. `known`: versions that were committed; who has only voted for such a one can roll forward to it."""
        held = [worker.held for worker in workers if worker.held.layers and worker.held.version is not None]
        versions = {h.version for h in held if h.version is not None}
        versions |= {h.pending for h in held if h.pending is not None and h.pending in known}
        versions |= stored.keys()
        for version in sorted((v for v in versions if self.has(v)), reverse=True):
            found = set(stored.get(version, ()))
            for h in held:
                if version in (h.version, h.pending):
                    found.update(h.layers)
            if len(found) == self.layers:
                return version
        return None
