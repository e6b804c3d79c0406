"""An agent waits for its job, takes what it can read, and is told of a job of other versions."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator

import pytest

from holdfast.agent.submission import read_job
from holdfast.agent.versions import versions_here
from holdfast.errors import VersionError
from holdfast.model.keys import Keys
from holdfast.model.records import JobRecord
from holdfast.model.wire import encode
from holdfast.ports.store import WatchEvent
from holdfast.stores.memory import MemoryStore

KEY = Keys(job="toy").one("spec")
JOB = JobRecord(
    spec={"name": "toy", "program": {"entry": "toy.py:program"}, "steps": 5},
    base="/",
    out="/",
    layer_names=("a",),
    layer_bytes=(8,),
    microbatches=4,
    steps=5,
    versions=versions_here(),
)


class Watched(MemoryStore):
    """`asked` is set once somebody waits for changes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        self.asked.set()
        return super().watch(prefix, from_revision)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff", b"{}", b"[" * 5000, encode(JOB)[:-9], encode(dataclasses.replace(JOB, spec={"steps": "many"}))],
)
async def test_what_cannot_be_read_is_told_of_and_the_job_is_waited_for(
    garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Watched()
    await store.put(KEY, garbage)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read_job(store, "toy"))
        await asyncio.wait_for(store.asked.wait(), 10)
        assert "job.malformed" in caplog.messages
        await store.put(KEY + "/other", encode(JOB))
        await store.put(KEY, encode(JOB))
    assert reading.result() == JOB


def skewed(package: str) -> JobRecord:
    versions = dict(JOB.versions) | {package: "99.1"}
    return dataclasses.replace(JOB, versions=tuple(versions.items()))


@pytest.mark.parametrize("package", ["holdfast", "torch"])
async def test_a_job_of_another_version_is_refused_even_where_its_record_has_changed_shape(package: str) -> None:
    store = MemoryStore()
    changed = json.loads(encode(skewed(package)))
    changed["body"]["a_field_of_the_future"] = 1
    other_spec = dataclasses.replace(skewed(package), spec={**JOB.spec, "a_field_of_the_future": 1})
    for value in (json.dumps(changed, separators=(",", ":")).encode(), encode(other_spec)):
        await store.put(KEY, value)
        with pytest.raises(VersionError, match=f"submitted with {package} 99.1, this machine has"):
            await read_job(store, "toy")
