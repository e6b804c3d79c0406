"""`holdfast profile`: what the layers cost on this machine, measured in processes of their own and kept in a file."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from holdfast.cli.arguments import bandwidth
from holdfast.cli.inspected import Inspected, inspect_program
from holdfast.cli.known_profiles import fingerprint, keep_profile, known_profile
from holdfast.errors import JobFailedError, UserCodeError, UserError
from holdfast.planner.profile import Link, Profile
from holdfast.planner.profile_json import profile_from_json, profile_to_json
from holdfast.spec import load_spec

_PROCESSES_MAX = 8
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileWish:
    """What `holdfast profile` was asked for. `bandwidth`, `latency_s`: of what joins the nodes, in bytes a second."""

    spec: Path
    out: Path | None = None
    overrides: Mapping[str, Any]
    bandwidth: str | None = None
    latency_s: float | None = None
    again: bool = False


def make_profile(wish: ProfileWish, *, as_json: bool) -> None:
    """Measure, unless it is known already, write it and print it.

    Raises:
        UserError: the spec or the Program is wrong, or the file cannot be written.
        UserCodeError: the user's code raised.
        JobFailedError: a process that measures failed.
    """
    bytes_per_s = bandwidth(wish.bandwidth)
    if wish.out is not None and not wish.out.absolute().parent.is_dir():
        raise UserError(
            f"-o {wish.out}: there is no folder {wish.out.absolute().parent}; make it, or give another file"
        )
    spec = load_spec(wish.spec, dict(wish.overrides))
    inspected = inspect_program(spec, wish.spec.absolute().parent)
    known = None if wish.again else known_profile(inspected)
    profile = _with_link(known or measure(inspected), bytes_per_s, wish.latency_s)
    text = profile_to_json(profile)
    if wish.out is not None:
        try:
            wish.out.write_text(text)
        except OSError as error:
            raise UserError(f"-o {wish.out}: {error.strerror}; give a file that can be written") from error
    if as_json:
        print(text, end="")
        return
    console = Console()
    console.print(layers_table(profile, inspected))
    console.print(
        "\n".join(_lines(profile, inspected, wish.out, is_known=known is not None)), highlight=False, soft_wrap=True
    )


def layers_table(profile: Profile, inspected: Inspected) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"{inspected.spec.name}: a microbatch of {inspected.program.microbatch}")
    table.add_column("layer")
    for header in ("forward", "backward", "update", "state", "saved", "output"):
        table.add_column(header, justify="right")
    for layer in profile.layers:
        times = (milliseconds(value) for value in (layer.forward_s, layer.backward_s, layer.update_s))
        sizes = (size_text(value) for value in (layer.state_bytes, layer.activation_bytes, layer.output_bytes))
        table.add_row(layer.name, *times, *sizes)
    return table


def _lines(profile: Profile, inspected: Inspected, out: Path | None, *, is_known: bool) -> list[str]:
    link = profile.between_nodes
    lines = [
        f"beside its layers a stage takes {milliseconds(profile.stage_s)} a microbatch, a step "
        f"{milliseconds(profile.fixed_s)}, reading a microbatch {milliseconds(profile.load_s)}",
        f"between nodes {size_text(link.bytes_per_s)}/s and {milliseconds(link.latency_s)}; measured on this machine "
        "unless --bandwidth and --latency say what joins the nodes",
    ]
    if inspected.spec.device == "cpu":
        lines.append(f"with all cores busy each computes at {profile.crowded_speed:.0%} of its speed alone")
    lines.append(f"fingerprint {profile.fingerprint}{', measured before (--again measures anew)' if is_known else ''}")
    return [*lines, f"written to {out}"] if out is not None else lines


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def measure(inspected: Inspected) -> Profile:
    """In processes of their own, as many as a machine has cores (but not too many); keeps it for `known_profile`.

    Raises:
        UserCodeError: the user's code raised.
        JobFailedError: a process that measures failed.
    """
    spec = inspected.spec
    processes = max(2, min(os.cpu_count() or 1, _PROCESSES_MAX)) if spec.device == "cpu" else 2
    order = {
        "spec": spec.model_dump(mode="json"),
        "base": str(inspected.base),
        "fingerprint": fingerprint(inspected),
        "processes": processes,
    }
    with tempfile.TemporaryDirectory(prefix="holdfast-profile-") as name:
        folder = Path(name)
        (folder / "order.json").write_text(json.dumps(order))
        _run(folder, processes)
        text = (folder / "profile.json").read_text()
    profile = profile_from_json(text, "the measured profile")
    keep_profile(profile)
    return profile


def _run(folder: Path, processes: int) -> None:
    running = []
    for rank in range(processes):
        command = [sys.executable, "-m", "holdfast.worker.profiling", str(folder), str(rank)]
        with (folder / f"log-{rank}").open("wb") as log:
            # What the user's code prints is not ours to show among JSON.
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log))
    try:
        while any(process.poll() is None for process in running) and not any(process.poll() for process in running):
            time.sleep(_LOOK_S)
    finally:
        for process in running:
            process.kill()
            process.wait()
    failed = [rank for rank, process in enumerate(running) if process.returncode]
    if failed:
        raise _failure(folder, running, failed)


def _failure(folder: Path, running: Sequence[subprocess.Popen[bytes]], failed: Sequence[int]) -> Exception:
    """The first rank's own word, where it left one; the others may just have lost it."""
    for rank in failed:
        path = folder / f"error-{rank}.json"
        if path.exists():
            report = json.loads(path.read_text())
            text = report["traceback"].rstrip()
            return UserCodeError(text) if report["is_users"] else JobFailedError(f"profile: it failed:\n{text}")
    rank = failed[0]
    last = (folder / f"log-{rank}").read_text(errors="replace").strip().splitlines()[-5:]
    status = running[rank].returncode
    return JobFailedError("\n".join([f"profile: a process that measures ended with status {status}", *last]))


def _with_link(profile: Profile, bytes_per_s: float | None, latency_s: float | None) -> Profile:
    """With what joins the nodes as the user says; what was measured joins processes of one machine."""
    link = profile.between_nodes
    link = Link(
        bytes_per_s=bytes_per_s if bytes_per_s is not None else link.bytes_per_s,
        latency_s=latency_s if latency_s is not None else link.latency_s,
    )
    return replace(profile, between_nodes=link)
