"""A submitted job is told by its store, and its folder holds an earlier run until another stands in its place."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from harness.records import JOB, KEYS
from holdfast.cli.folder import clear, replacing
from holdfast.cli.inspecting import Which, show_events
from holdfast.cli.preparing import Wish, prepare
from holdfast.cli.recording import Recording
from holdfast.cli.submitting import Submission, _submit
from holdfast.cli.target import Target
from holdfast.errors import StoreUnavailableError, UserError
from holdfast.model.ids import NodeId
from holdfast.model.records import Commit, OutcomeRecord, ProgressRecord, Result, StopRecord
from holdfast.model.wire import encode
from holdfast.ports.store import Compare, Operation, Store, TxnResult
from holdfast.stores.address import StoreAccess, parse_store
from holdfast.stores.counted import CountedStore
from holdfast.stores.embedded import EmbeddedStore
from holdfast.stores.embedded_server import EmbeddedServer
from holdfast.stores.memory import MemoryStore
from holdfast.telemetry.files import RunFiles, RunInfo
from holdfast.telemetry.run_event import EventKind, RunEvent
from holdfast_checkpoint.final import MARKS, FinalPlace

SECRET = "0123456789abcdef0123456789abcdef"
WITHIN_S = 30.0


def submitted(out: Path, store: str) -> None:
    """What `submit --wait` had written when it was interrupted."""
    clear(out)
    FinalPlace(str(out)).mark("id", b"")
    with RunFiles(out) as files:
        files.begin(RunInfo(job="toy", store=store, launcher_pid=1, spec="toy.yaml"))
        files.append_events([RunEvent(time_s=1.0, kind=EventKind.NODE_JOINED, text="node-0 joined")])


async def until_told(capsys: pytest.CaptureFixture[str], words: str) -> None:
    told = ""
    async with asyncio.timeout(WITHIN_S):
        while words not in told:
            await asyncio.sleep(0.02)
            told += capsys.readouterr().out


@pytest.mark.asyncio
async def test_following_a_submitted_job_goes_on_to_its_end_though_its_folder_holds_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET", SECRET)
    server = EmbeddedServer(secret=SECRET.encode())
    await server.start()
    store = EmbeddedStore(server.host, server.port, secret=SECRET.encode())
    try:
        submitted(tmp_path, f"127.0.0.1:{server.port}")
        await store.put(KEYS.one("spec"), encode(JOB))
        following = asyncio.create_task(asyncio.to_thread(show_events, Which(out=tmp_path), follow=True, as_json=False))
        await store.put(KEYS.one("stop"), encode(StopRecord(reason="enough")))
        await until_told(capsys, "the job is to stop: enough")
        assert not following.done()
        ended = OutcomeRecord(result=Result.STOPPED, reason="that was it", step=3)
        await store.put(KEYS.one("outcome"), encode(ended))
        await asyncio.wait_for(following, WITHIN_S)
        await until_told(capsys, "stopped: that was it")
    finally:
        await store.close()
        await server.close()


def left_by_a_run(out: Path) -> dict[str, bytes]:
    """What lies there, by path; the new folder of logs has nothing in it."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    clear(tmp_path)
    (tmp_path / "layers").mkdir()
    (tmp_path / MARKS).mkdir()
    for name in ("weights.safetensors", "layers/0.safetensors", "logs/launcher.log", "notes.txt", f"{MARKS}/old"):
        (tmp_path / name).write_text(f"{name} of before", encoding="utf-8")
    return tmp_path


class _Contested(CountedStore):
    """Somebody else submits just before we do."""

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        await self.put(KEYS.one("spec"), encode(JOB))
        return await super().transact(compares, then, otherwise)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Within(Target):
    """A job whose store is in this process."""

    store: Store

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        yield self.store


@pytest.mark.asyncio
@pytest.mark.parametrize("is_contested", [True, False])
async def test_weights_of_an_earlier_run_go_only_once_the_new_job_stands(earlier: Path, is_contested: bool) -> None:
    before = left_by_a_run(earlier)
    memory = MemoryStore()
    store = _Contested(memory, lambda _: None) if is_contested else memory
    target = _Within(job="toy", address=parse_store("127.0.0.1:1"), access=StoreAccess(secret=b""), store=store)
    submission = Submission(store="", out=str(earlier), replace=True, wait=False, as_json=False)
    submitting = _submit(target, dataclasses.replace(JOB, id="new"), (), Wish(spec=Path("toy.yaml")), submission)
    if is_contested:
        with pytest.raises(UserError, match="somebody else submitted"):
            await submitting
        assert left_by_a_run(earlier) == before
    else:
        await submitting
        assert left_by_a_run(earlier).keys() == {"notes.txt", "run.json", f"{MARKS}/new"}
    await memory.close()


def test_what_an_earlier_run_left_stays_beside_where_nobody_knows_whether_the_new_one_stands(earlier: Path) -> None:
    def write() -> None:
        with replacing(earlier, "aside"):
            FinalPlace(str(earlier)).mark("new", b"")
            raise StoreUnavailableError("no answer")

    with pytest.raises(StoreUnavailableError):
        write()
    assert FinalPlace(str(earlier)).submissions() == ("new",)
    assert (earlier / "aside" / "weights.safetensors").exists()


def test_a_folder_that_was_not_there_is_empty_again_where_it_fails(tmp_path: Path) -> None:
    with pytest.raises(UserError), replacing(tmp_path / "out", "aside"):
        raise UserError("no")
    assert not list((tmp_path / "out").iterdir())


def test_nodes_are_written_as_they_change_and_looked_at_for_nothing_else(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[frozenset[str]] = []
    monkeypatch.setattr(RunFiles, "write_nodes", lambda _, nodes: written.append(frozenset(nodes)))
    recording = Recording(prepare(Wish(spec=spec)), spec, tmp_path)
    keys = dataclasses.replace(KEYS, job="small")
    node = NodeId("node-0")
    recording.node_started(node, 7)
    for step in range(1, 4):
        commit = Commit(step=step, loss=1.0, grad_norm=None, time_s=float(step))
        recording.changed(keys.one("progress"), encode(ProgressRecord(generation=1, commits=(commit,))))
    assert len(written) == 1
    recording.changed(keys.node(node), None)
    recording.changed(keys.drain(node), None)
    recording.close()
    assert written == [{"node-0"}] * 3
