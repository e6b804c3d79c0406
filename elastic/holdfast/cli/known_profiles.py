"""Profiles that were measured before: in files, and kept on this machine by a fingerprint of all they depend on."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from holdfast.agent.program_source import source_sha256
from holdfast.cli.inspected import Inspected
from holdfast.errors import UserError
from holdfast.planner.profile import Profile
from holdfast.planner.profile_json import profile_from_json, profile_to_json


def read_profile(path: Path, inspected: Inspected) -> Profile:
    """Raises: UserError: it cannot be read, or is of another Program."""
    try:
        profile = profile_from_json(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--profile {path}: cannot be read: {error}; give a file of `holdfast profile`") from error
    here, there = [layer.name for layer in inspected.facts.layers], [layer.name for layer in profile.layers]
    if here != there:
        odd = next((n for n, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
        what = f"layer {there[odd]!r} where it has {here[odd]!r}" if odd is not None else f"{len(there)} layers"
        raise UserError(
            f"--profile {path}: is of another Program: it has {what} (the spec's has {len(here)} layers); measure this "
            f"one with `holdfast profile SPEC -o {path}`"
        )
    return profile


def known_profile(inspected: Inspected) -> Profile | None:
    """What was measured here before of the same Program on the same device."""
    path = _cache_path(fingerprint(inspected))
    with contextlib.suppress(OSError, UserError):
        return profile_from_json(path.read_text(), str(path))
    return None


def fingerprint(inspected: Inspected) -> str:
    """Of all that a profile depends on: code, layers, microbatch, dtypes, optimizer, device, torch."""
    import torch

    spec, identity = inspected.spec, inspected.identity
    has_gpu = spec.device != "cpu" and torch.cuda.is_available()
    parts = {
        "layers": identity["layers"],
        "order": identity["order"],
        "source": source_sha256(spec.program.entry, inspected.base),
        "params": dict(spec.program.params),
        "optimizer": identity["optimizer"],
        "microbatch": inspected.program.microbatch,
        "reduction": spec.reduction,
        "device": torch.cuda.get_device_name() if has_gpu else f"cpu {_cpu_name()} x{os.cpu_count()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "1"),
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def keep_profile(profile: Profile) -> None:
    """For `known_profile`, where it can be kept."""
    with contextlib.suppress(OSError):
        path = _cache_path(profile.fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(profile_to_json(profile))


def _cache_path(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "holdfast" / "profiles" / f"{name}.json"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"
