"""Saves of scripts in the memory of their machines: real ranks over gloo, and a real agent for each machine.

A machine is an agent with its socket and failure domain; ranks are told which one they run on.
"""

import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import arange
from torch.distributed.tensor import Shard, distribute_tensor

from harness.dcp_ranks import failures, mesh_of, run_ranks, sha256
from harness.keepers import Keepers, keepers, wait_for
from harness.ram import flip_byte
from holdfast.agent.credentials import Credentials
from holdfast.agent.peers import Peers
from holdfast.errors import ProtocolError
from holdfast_checkpoint.dcp import HoldfastReader, HoldfastWriter
from holdfast_checkpoint.dcp.host_memory import HostMemory
from holdfast_checkpoint.remote import Repository

pytestmark = pytest.mark.slow
ITEMS = 40_013  # that no number of ranks divides


class _Lines(logging.Handler):
    """What this rank logged of the bridge."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        about = (getattr(record, name, "") for name in ("reason", "error", "blob", "ranks"))
        self.lines.append(" ".join([record.levelname, record.getMessage(), *(str(one) for one in about if one)]))


def _state(ranks: int, seed: int) -> dict[str, Any]:
    mesh = mesh_of(ranks)
    return {
        "weight": distribute_tensor((arange(ITEMS) * seed).float().view(ITEMS, 1), mesh, [Shard(0)]),
        "moment": distribute_tensor((arange(ITEMS) + seed).double(), mesh, [Shard(0)]),
        "step": seed,
    }


def _play(rank: int, folder: Path) -> dict[str, Any]:
    """What the test wrote for the ranks: saves of these steps, then a load, or the end."""
    told_to = json.loads((folder / "settings.json").read_text())
    agent, url = told_to["agents"][rank], told_to["url"]
    if rank == 0 and agent is not None:  # one way or the other
        os.environ["HOLDFAST_AGENT"], agent = agent, None
    lines = _Lines()
    logging.getLogger("holdfast_checkpoint").addHandler(lines)
    logging.getLogger("holdfast_checkpoint").setLevel(logging.INFO)
    told: dict[str, Any] = {}
    for step in told_to["saves"]:
        state = _state(dist.get_world_size(), step)
        writer = HoldfastWriter(url, step=step, agent=agent, remote=told_to["remote"], memory=told_to["memory"])
        dcp.save(state, storage_writer=writer, checkpoint_id=f"{url}/step-{step}" if told_to["by_step"] else None)
        told["saved"] = sha256(state)
    if told_to["dies"]:
        (folder / f"told-{rank}.json").write_text(json.dumps(told))
        dist.barrier()
        os.kill(os.getpid(), signal.SIGKILL)
    if told_to["loads"]:
        state = _state(dist.get_world_size(), 0)
        reader = HoldfastReader(url, agent=agent)
        wanted = f"{url}/step-{told_to['wanted']}" if told_to["by_step"] else None
        told["failed"] = failures(lambda: dcp.load(state, storage_reader=reader, checkpoint_id=wanted))
        told["loaded"], told["step"] = sha256(state), state["step"]
    return told | {"lines": lines.lines}


class Script:
    """A script that runs now and then on machines of `made`, always with the same URL."""

    def __init__(self, made: Keepers, folder: Path, *, by_step: bool = False) -> None:
        """`by_step`: each save goes to a URL of its own, under that of the script."""
        self.made, self.folder, self.url, self._by_step = made, folder, str(folder / "checkpoints"), by_step
        self._runs = 0

    def run(
        self,
        machines: Sequence[str | None],
        *,
        saves: Sequence[int] = (),
        remote: bool = True,
        memory: bool = False,
        dies: bool = False,
        wanted: int = 0,
    ) -> list[Mapping[str, Any]]:
        """A rank on each of these machines (None: on one without an agent). Without saves it loads; where each has a
        URL, the one of step `wanted`."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        folder.mkdir()
        settings = {
            "url": self.url,
            "agents": [str(self.made.socket_of(machine)) if machine else None for machine in machines],
            "saves": list(saves),
            "remote": remote,
            "memory": memory,
            "dies": dies,
            "loads": not saves,
            "by_step": self._by_step,
            "wanted": wanted,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        exits = [-signal.SIGKILL] * len(machines) if dies else None
        return run_ranks(_play, len(machines), folder, expected_exits=exits)

    def until_safe(self, step: int, *machines: str) -> None:
        for machine in machines:
            wait_for(lambda on=machine: (step, True) in self.made.saves(on, self.url), f"copies of step {step}")  # type: ignore[misc]

    def ruin_stored(self, under: str = "") -> None:
        """Who reads one byte of it gets an error; its names stay."""
        files = [path for path in Path(self.url, under).rglob("*") if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(b"")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keepers]:
    """Two machines, which keep for all scripts whose machines live on."""
    with keepers(tmp_path_factory.mktemp("k")) as running:
        running.start("a", "b")
        yield running


@pytest.fixture
def script(made: Keepers, tmp_path: Path) -> Script:
    return Script(made, tmp_path)


def _same(told: Sequence[Mapping[str, Any]], key: str) -> Any:
    assert all(rank[key] == told[0][key] for rank in told)
    return told[0][key]


def _assert_loaded(told: Sequence[Mapping[str, Any]], saved: str, step: int) -> None:
    assert [rank["failed"] for rank in told] == [[]] * len(told)
    assert (_same(told, "loaded"), _same(told, "step")) == (saved, step)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Keepers]:
    """Two machines for one script alone."""
    with keepers(tmp_path / "k") as running:
        running.start("a", "b")
        yield running


def test_a_killed_script_loads_from_its_machines_memory_and_a_lost_machines_part_from_its_peers(
    mortal: Keepers, tmp_path: Path
) -> None:
    script = Script(mortal, tmp_path)
    saved = _same(script.run(["a", "b", "b"], saves=[1, 2], dies=True), "saved")
    script.until_safe(2, "a", "b")
    script.ruin_stored()
    told = script.run(["a", "b", "b"])
    _assert_loaded(told, saved, 2)
    assert not [line for rank in told for line in rank["lines"] if line.startswith(("WARNING", "ERROR"))]

    mortal.kill("b")
    _assert_loaded(script.run(["a", "a"]), saved, 2)

    mortal.start("c")  # in its place, with nothing
    script.until_safe(2, "a", "c")  # it takes the copies that b's loss cost
    mortal.kill("a")
    _assert_loaded(script.run(["c"]), saved, 2)


def test_a_flipped_byte_in_the_own_copy_is_named_and_the_peers_copy_used(script: Script, made: Keepers) -> None:
    saved = _same(script.run(["a", "b"], saves=[1]), "saved")
    script.until_safe(1, "a", "b")
    script.ruin_stored()
    for copy in made.copies("a"):
        flip_byte(copy)
    told = script.run(["a", "b"])
    _assert_loaded(told, saved, 1)
    (line,) = {line for line in told[0]["lines"] if "copy_skipped" in line}
    assert "safetensors in the memory of a is corrupt between bytes" in line
    corrupt = [line for line in made.log_of("a") if line["event"] == "copy.corrupt"]
    assert {line["origin"] for line in corrupt} == {"own:0"}


def test_without_an_agent_a_save_and_a_load_go_the_usual_way_and_say_so_once(tmp_path: Path) -> None:
    script = Script(Keepers(folder=tmp_path, store=""), tmp_path)
    told = script.run(["gone", None], saves=[1], memory=True)
    saved = _same(told, "saved")
    try:
        folder, _ = Repository(script.url).newest()
        assert len(HostMemory(script.url).copies(folder)) == 2
        loaded = script.run(["gone", None])
    finally:
        HostMemory(script.url).forget()
    _assert_loaded(loaded, saved, 1)
    expected = ("WARNING", "gone.sock: the agent does not answer"), ("INFO", "HOLDFAST_AGENT is not set")
    for ranks in (told, loaded):
        for rank, (level, reason) in zip(ranks, expected, strict=True):
            (line,) = [line for line in rank["lines"] if "agent" in line]
            assert line.startswith(f"{level} checkpoint.no_agent")
            assert reason in line


def test_a_save_between_two_stored_ones_may_stay_with_the_agents_alone(script: Script, made: Keepers) -> None:
    script.run(["a", "b"], saves=[1])
    saved = _same(script.run(["a", "b"], saves=[2], remote=False), "saved")
    assert [one.step for one in Repository(script.url).list()] == [1]
    _assert_loaded(script.run(["b", "a", "a"]), saved, 2)
    # One rank cannot reach it: all load what all can.
    told = script.run(["a", None])
    assert [(rank["failed"], rank["step"]) for rank in told] == [([], 1)] * 2
    # A rank without an agent: the save is stored after all, and is the newest for everybody.
    told = script.run(["a", None], saves=[3], remote=False)
    assert any("checkpoint.ranks_without_agent 1" in line for line in told[0]["lines"])
    _assert_loaded(script.run(["a", "b"]), _same(told, "saved"), 3)


def test_agents_hold_two_saves_at_most_and_one_once_it_is_safe(mortal: Keepers, tmp_path: Path) -> None:
    made, script = mortal, Script(mortal, tmp_path)
    most, ended = 0, Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.002):
            most = max(most, len(made.copies("a")))

    thread = Thread(target=watch)
    thread.start()
    try:
        script.run(["a", "b"], saves=range(1, 9), remote=False)
    finally:
        ended.set()
        thread.join()
    script.until_safe(8, "a", "b")
    blobs = 2  # its own rank's, and the peer's
    assert blobs < most <= 2 * blobs
    for machine in ("a", "b"):
        wait_for(lambda on=machine: [copy.step for copy in made.copies(on)] == [8] * blobs, "old saves to go")  # type: ignore[misc]
        wait_for(lambda on=machine: made.saves(on, script.url) == [(8, True)], "agents to say so")  # type: ignore[misc]


def test_a_save_to_a_url_of_its_own_takes_the_place_of_the_one_before_in_memory_alone(
    mortal: Keepers, tmp_path: Path
) -> None:
    script = Script(mortal, tmp_path, by_step=True)
    first = _same(script.run(["a", "b"], saves=[1]), "saved")
    second = _same(script.run(["a", "b"], saves=[2]), "saved")
    script.until_safe(2, "a", "b")
    for machine in ("a", "b"):
        wait_for(lambda on=machine: {copy.step for copy in mortal.copies(on)} == {2}, "the old save to go")  # type: ignore[misc]
    script.ruin_stored("step-2")
    _assert_loaded(script.run(["a", "b"], wanted=2), second, 2)
    _assert_loaded(script.run(["a", "b"], wanted=1), first, 1)


async def test_who_has_another_secret_is_neither_taken_in_nor_answered(made: Keepers, script: Script) -> None:
    script.run(["a", "b"], saves=[1])
    status, said = made.run("stranger", secret="another secret, long enough")
    assert status != 0
    assert "secret" in said
    port = next(line["port"] for line in made.log_of("a") if line["event"] == "keeper.ready")
    stranger = Peers(Credentials(b"another secret, long enough", "script:runs"))
    for path in ("/alive", "/scripts/0123456789abcdef/blobs/0/1/1?start=0&stop=1"):
        with pytest.raises(ProtocolError, match="401"):
            await stranger.fetch("127.0.0.1", port, path, 5.0)
