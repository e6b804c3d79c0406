"""What copies of the state cost, tier by tier, each beside a peer or a physical limit in the same run.

    python benchmarks/checkpoint.py [--bytes 1073741824] [--parts snapshot peer local s3 restore] [--json FILE]

snapshot: the stall that a step sees and the whole cost, against torch.distributed.checkpoint's async_save and a plain
memory copy. peer: a copy to another agent, against a raw loopback socket. local, s3: writing a checkpoint, against
plain write() and fsync, and against s3fs alone (rclone serves S3 on loopback). restore: 4 ranks' state loaded by 3,
against plain reads and dcp.load.
"""

import sys

sys.path.insert(0, sys.path.pop(0).rpartition("/")[0])  # in this folder `operator.py` would hide Python's own

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.harness.dcp_restoring import restoring_figures
from benchmarks.harness.peer_copying import measure as measure_peer
from benchmarks.harness.remote_writing import local_figures, s3_figures
from benchmarks.harness.results import machine, progress, tell
from benchmarks.harness.snapshotting import measure_async_save, measure_overlap, measure_snapshots
from harness.storage.s3_server import Kind, running_s3
from holdfast_checkpoint.tunables import with_streamed_copies

STALL_MAX, COPIES_MAX, MEMORY_MAX = 0.1, 1.3, 2.01
PEER_MIN, LOCAL_MIN, S3_MIN, RESTORE_MIN = 0.70, 0.80, 0.90, 0.70


def snapshot(folder: Path, size: int) -> dict[str, Any]:
    return {
        "snapshot": measure_snapshots(size),
        "overlap": measure_overlap(size),
        "async_save": measure_async_save(folder, size),
    }


def over_s3(folder: Path, size: int) -> dict[str, Any]:
    with running_s3(folder, Kind.RCLONE, "bucket") as server:
        os.environ.update(server.environment)
        return s3_figures("s3://bucket/benchmark", size)


PARTS: Mapping[str, Callable[[Path, int], dict[str, Any]]] = {
    "snapshot": snapshot,
    "peer": lambda _, size: measure_peer(size),
    "local": local_figures,
    "s3": over_s3,
    "restore": restoring_figures,
}


def goals(found: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Of the parts that were measured."""
    met: dict[str, bool] = {}
    if "snapshot" in found:
        part = found["snapshot"]
        met["stall at most a tenth of async_save's"] = part["async_save"]["stall_ratio"] <= STALL_MAX
        met["training pays at most 1.3 copies, in stalls and slower steps"] = (
            part["overlap"]["extra_ratio"] <= COPIES_MAX
        )
        met["nor is the work more, checksums included"] = part["snapshot"]["copy_ratio"] <= COPIES_MAX
        met["at most two copies of the state in memory"] = part["snapshot"]["memory_ratio"] <= MEMORY_MAX
    if "peer" in found:
        met["a peer copy at 70 % of a raw socket"] = found["peer"]["ratio"] >= PEER_MIN
    if "local" in found:
        met["a local checkpoint at 80 % of write() and fsync"] = found["local"]["write"]["ratio"] >= LOCAL_MIN
    if "s3" in found:
        met["a checkpoint on S3 at 90 % of s3fs alone"] = found["s3"]["write"]["ratio"] >= S3_MIN
    if "restore" in found:
        met["a changed layout restored at 70 % of plain reads"] = found["restore"]["holdfast_of_plain"] >= RESTORE_MIN
    return met


def table(found: Mapping[str, Mapping[str, Any]], met: Mapping[str, bool]) -> list[str]:
    lines = []
    if "snapshot" in found:
        part = found["snapshot"]
        one, save = part["snapshot"], part["async_save"]
        lines += [
            f"snapshot   stall {save['stall_s'] * 1e3:.2f} ms, async_save's {save['async_save_stall_s'] * 1e3:.0f} ms",
            f"           copy {one['copy_s']:.3f} s, plain {one['plain_copy_s']:.3f} s: {one['copy_ratio']:.2f} copies "
            f"(CPU {one['cpu_ratio']:.2f}); a step it overlaps {part['overlap']['slowdown'] * 100:+.1f} %, "
            f"{part['overlap']['extra_ratio']:.2f} copies",
        ]
    if "peer" in found:
        speeds = found["peer"]["gb_s"]
        lines.append(
            f"peer       {speeds['peer_copy']} GB/s, raw socket {speeds['socket']}: {found['peer']['ratio']:.2f}"
        )
    for name, peer in (("local", "write()"), ("s3", "s3fs")):
        if name in found:
            for way in ("write", "read"):
                one = found[name][way]
                ours, theirs = one["ours_gb_per_s"], one["plain_gb_per_s"]
                lines.append(f"{name:<11}{way} {ours} GB/s, {peer} alone {theirs}: {one['ratio']:.2f}")
    if "restore" in found:
        for where, part in (("restore", found["restore"]), ("  disk", found["restore"]["from_disk"])):
            seconds = part["seconds"]
            lines.append(
                f"{where:<11}{seconds['holdfast']:.3f} s, plain reads {seconds['plain']:.3f} s: "
                f"{part['holdfast_of_plain']:.2f} (dcp.load: {part['torch_of_plain']:.2f}); dcp.load's plan alone "
                f"{seconds['plan']:.3f} s, so {part['holdfast_of_bound']:.2f} of what any reader could reach"
            )
    return [*lines, *(f"  {'met' if is_met else 'MISSED':<8}{goal}" for goal, is_met in met.items())]


def main() -> None:
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--json", metavar="FILE", help="write one JSON document there; '-': on standard output")
    made.add_argument("--bytes", type=int, default=1 << 30, help="of state (default: 1 GiB)")
    made.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = made.parse_args()
    facts, found = machine(), {}
    for name in arguments.parts:
        folder = Path(tempfile.mkdtemp(prefix=f"holdfast-{name}-"))
        found[name] = PARTS[name](folder, arguments.bytes)
        shutil.rmtree(folder, ignore_errors=True)
        progress("\n".join(table({name: found[name]}, {})))
    met = goals(found)
    document = {"benchmark": "checkpoint", "machine": facts, "bytes": arguments.bytes, **found, "goals_met": met}
    tell(document, table(found, met), arguments.json)


if __name__ == "__main__":
    if dict(os.environ) != (told := with_streamed_copies(os.environ)):  # as an agent starts workers
        os.execve(sys.executable, [sys.executable, *sys.argv], told)
    main()
