"""State that no worker holds any more comes back, from the nearest copy that is sound, and not a bit is different."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.ram import all_copied, copies_of, flip_all, flip_byte
from harness.realrun.jobs import Ended, Holds, RunningJob, agents_of, events_of, job, kill_all, run_job, toy_spec
from holdfast.telemetry.run_event import EventKind
from holdfast_checkpoint.remote import Repository

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
STEPS = 24
LAYERS = 6
SLOW = {"pause_s": 0.005}
# About 43 kB with gradients, activations beside: three slots at least, so with four nodes each layer lies on one alone.
TIGHT = {"memory_per_slot_bytes": 24_000}


def spec_of(folder: Path, *, tight: bool = False, params: Mapping[str, Any] = SLOW, **fields: Any) -> Path:
    layout = {"depth": None, **(TIGHT if tight else {})}
    return toy_spec(folder, params=params, steps=STEPS, layout=layout, **fields)


def logged(out: Path, event: str) -> list[dict[str, Any]]:
    """What agents and workers logged under that name."""
    lines = [line for path in sorted((out / "logs").iterdir()) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if f'"event": "{event}"' in line]


def generation_after(ended: Ended, cause: str) -> dict[str, Any]:
    """The first that began for that cause and trained."""
    found: dict[str, Any] = next(g for g in ended.report["generations"] if g["cause"] == cause and g["committed_steps"])
    return found


def test_a_node_that_held_layers_alone_is_replaced_from_its_peers_ram(undisturbed: Ended, tmp_path: Path) -> None:
    holds = Holds(tmp_path, 9)
    spec = spec_of(tmp_path, tight=True, params={**SLOW, **holds.params}, snapshots={"every": 1})
    with job(spec, tmp_path / "out", "--nodes", "4") as running:
        running.wait_for(lambda run: run.step() >= 9 and all_copied(agents_of(run).values(), 8, LAYERS))
        os.killpg(agents_of(running)["node-1"], signal.SIGKILL)
        holds.let_go(9)
        ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    after = generation_after(ended, "loss")
    assert after["layers_restored"] > 0, "each layer lay on one node only"
    assert after["redone_steps"] <= 2, "the step in flight, and at most one that was committed"


def test_two_adjacent_nodes_may_go_at_once_where_two_more_domains_have_copies(
    undisturbed: Ended, tmp_path: Path
) -> None:
    spec = spec_of(tmp_path, tight=True, snapshots={"every": 1, "copies": 2})
    faults = ("kill node-1 at step 9", "kill node-2 at step 9")
    ended = run_job(spec, tmp_path / "out", "--nodes", "5", faults=faults)

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    assert sum(g["layers_restored"] for g in ended.report["generations"]) > 0


def test_a_worker_that_died_starts_from_its_own_nodes_ram(undisturbed: Ended, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, tight=True, snapshots={"every": 1}, nodes={"min": 4})
    ended = run_job(spec, tmp_path / "out", "--nodes", "4", faults=("kill worker node-1/0 at step 9",))

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    back = next(g for g in ended.report["generations"][1:] if g["layers_restored"])
    assert back["layers_moved"] == 0
    # Those who had committed the step that nobody can finish go back with it, each to what its own node has.
    assert "node-1" in back["bytes_restored"]
    (pipeline,) = back["pipelines"]
    spans = {stage["node"]: stage["layers"] for stage in pipeline["stages"]}
    own = [stop - start for node, (start, stop) in spans.items() if node in back["bytes_restored"]]
    assert sum(own) == back["layers_restored"], "each from its own"
    for found in logged(ended.out, "restore.missed"):
        raise AssertionError(found)


def has_checkpoint(running: RunningJob) -> bool:
    return bool(events_of(running.out, EventKind.CHECKPOINT_COMMITTED))


def checkpoint_bytes(url: str, step: int) -> int:
    _, manifest = Repository(url).newest(step)
    return sum(blob.size for blob in manifest.blobs)


@pytest.mark.parametrize(("checkpoint_url", "nodes"), [("file", 3), ("s3", 1)], indirect=["checkpoint_url"])
def test_a_job_killed_as_a_whole_goes_on_from_its_checkpoint(
    undisturbed: Ended, tmp_path: Path, checkpoint_url: str, nodes: int
) -> None:
    where = ("--checkpoint", checkpoint_url, "--checkpoint-every", "5")
    spec = spec_of(tmp_path)
    with job(spec, tmp_path / "first", "--nodes", "2", *where) as running:
        running.wait_for(has_checkpoint)
        kill_all(running)
    ended = run_job(spec, tmp_path / "second", "--nodes", str(nodes), *where, "--resume", "auto")

    assert ended.code == 0, ended.output
    first = ended.report["generations"][0]
    assert first["start_step"] >= 5
    written = checkpoint_bytes(checkpoint_url, first["start_step"])
    assert first["bytes_restored"].pop("checkpoint") == written, "once, however many replicas there are"
    assert sum(first["bytes_restored"].values()) == (nodes - 1) * written, "the others have it from who read it"
    assert ended.report["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert ended.report["optimizer_sha256"] == undisturbed.report["optimizer_sha256"]
    redone = ended.report["losses"][first["start_step"] :]
    assert redone == undisturbed.report["losses"][first["start_step"] :]


def test_a_job_that_pauses_below_its_minimum_writes_what_it_has_and_a_new_one_goes_on(
    undisturbed: Ended, tmp_path: Path
) -> None:
    where = ("--checkpoint", str(tmp_path / "checkpoints"), "--checkpoint-every", "1000")
    spec = spec_of(tmp_path, nodes={"min": 2})
    faults = ("kill node-1 at step 9",)
    with job(spec, tmp_path / "first", "--nodes", "2", *where, faults=faults) as running:
        running.wait_for(has_checkpoint)
        kill_all(running)
    ended = run_job(spec, tmp_path / "second", "--nodes", "2", *where)

    assert ended.code == 0, ended.output
    assert ended.report["generations"][0]["start_step"] >= 9
    assert ended.report["weights_sha256"] == undisturbed.report["weights_sha256"]


def test_a_byte_flipped_in_a_snapshot_is_found_and_named_and_another_copy_used(
    undisturbed: Ended, tmp_path: Path
) -> None:
    holds = Holds(tmp_path, 11)
    spec = spec_of(tmp_path, tight=True, params=holds.params, snapshots={"every": 8}, nodes={"min": 4})
    with job(spec, tmp_path / "out", "--nodes", "4") as running:
        running.wait_for(lambda run: run.step() >= 11 and all_copied(agents_of(run).values(), 8, LAYERS))
        copies = copies_of(agents_of(running)["node-1"])
        newest = max(copy.step for copy in copies)
        for copy in copies:
            if copy.step == newest:
                flip_byte(copy)
        os.kill(running.nodes()["node-1"]["worker_pids"][0], signal.SIGKILL)
        holds.let_go(11)
        ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    found = logged(ended.out, "restore.corrupt")
    assert found
    assert all(entry["node"] == "node-1" and "between bytes" in entry["error"] for entry in found), found
    back = next(g for g in ended.report["generations"][1:] if g["layers_restored"])
    assert back["start_step"] == newest, "the same step, from other copies"


def test_where_no_copy_in_ram_is_sound_an_earlier_checkpoint_is_used_and_that_is_said(
    undisturbed: Ended, tmp_path: Path
) -> None:
    holds = Holds(tmp_path, 17)
    spec = spec_of(tmp_path, tight=True, params=holds.params, snapshots={"every": 6})
    where = ("--checkpoint", str(tmp_path / "checkpoints"), "--checkpoint-every", "10")
    with job(spec, tmp_path / "out", "--nodes", "4", *where) as running:
        running.wait_for(lambda run: run.step() >= 17 and all_copied(agents_of(run).values(), 16, LAYERS))
        running.wait_for(has_checkpoint)
        agents = agents_of(running)
        flip_all(agents.values())
        os.killpg(agents["node-1"], signal.SIGKILL)
        holds.let_go(17)
        ended = running.end()

    assert ended.code == 0, ended.output
    assert ended.bits == undisturbed.bits
    assert logged(ended.out, "restore.failed"), "said by the node that could not restore"
    assert any(set(g["bytes_restored"]) == {"checkpoint"} for g in ended.report["generations"])
    assert "to restore from the checkpoint" in ended.output


def test_a_byte_flipped_in_a_checkpoint_is_found_and_an_earlier_one_used(undisturbed: Ended, tmp_path: Path) -> None:
    where = ("--checkpoint", str(tmp_path / "checkpoints"), "--checkpoint-every", "5")
    spec = spec_of(tmp_path)
    first = run_job(spec, tmp_path / "first", "--nodes", "1", "--steps", "12", *where)
    assert first.code == 0, first.output
    newest = max(path.parent for path in (tmp_path / "checkpoints").glob("*/manifest.json"))
    blob = newest / "00002.safetensors"
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    blob.write_bytes(data)
    ended = run_job(spec, tmp_path / "second", "--nodes", "2", *where)

    assert ended.code == 0, ended.output
    assert ended.report["weights_sha256"] == undisturbed.report["weights_sha256"]
    (found,) = {(entry["layer"], entry["source"]) for entry in logged(ended.out, "restore.corrupt")}
    assert found == (2, "checkpoint")
    steps = [g["start_step"] for g in ended.report["generations"] if g["start_step"] is not None]
    assert steps[0] > min(steps) >= 5, "the one before it"


def test_another_model_optimizer_or_batch_is_refused_with_what_differs(tmp_path: Path) -> None:
    where = ("--checkpoint", str(tmp_path / "checkpoints"), "--checkpoint-every", "5")
    first = run_job(spec_of(tmp_path), tmp_path / "first", "--nodes", "1", "--steps", "6", *where)
    assert first.code == 0, first.output
    other = toy_spec(tmp_path, params={**SLOW, "blocks": 3, "optimizer": "sgd"}, steps=STEPS)
    ended = run_job(other, tmp_path / "second", "--nodes", "1", *where)

    assert ended.code == 2
    assert "layers.block-3" in ended.output
    assert "optimizer.class: torch.optim.adamw.AdamW in the checkpoint, torch.optim.sgd.SGD now" in ended.output
    assert not (tmp_path / "second").exists()
    anew = run_job(other, tmp_path / "third", "--nodes", "1", *where, "--resume", "never")
    assert anew.code == 0, anew.output
