"""Throughput measured for D pipelines of P stages each, and what follows from it for pipelines of different depth."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from holdfast.errors import UserError
from holdfast.simulator.replay.yields import Depths, Listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What Parcae's systems take to reconfigure, as its authors measured it (NSDI'24; their public repository's cost
    model). A process group is made anew for each pipeline, each data-parallel set, each neighbourhood of stages, and
    the world; with newcomers each takes `group_add_ms`, among old acquaintances `group_keep_ms`."""

    rendezvous_ms: float
    group_add_ms: float
    group_keep_ms: float
    group_fixed_ms: float
    process_ms: float
    link_bytes_per_s: float
    checkpoint_ms: float
    build_ms: Mapping[int, float]  # of the model, by depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`step_s[D, P]`: of one step of `global_batch` samples, one microbatch a sample unless `microbatch` says more."""

    name: str
    global_batch: int
    microbatches: int
    step_s: Mapping[tuple[int, int], float]
    layer_bytes: tuple[int, ...] | None = None
    migration: Migration | None = None

    @property
    def shallowest(self) -> int:
        """Stages of the pipelines that have the fewest."""
        return min(depth for _, depth in self.step_s)

    def rate(self, pipelines: int, depth: int) -> float:
        """Samples a second as measured."""
        return self.global_batch / self.step_s[pipelines, depth]

    def even(self) -> Listed:
        """What was measured, and nothing else."""
        rates = {(depth,) * count: self.rate(count, depth) for count, depth in self.step_s}
        return Listed(rates, self.global_batch)

    def uneven(self) -> Listed:
        """Besides, pipelines of different depth side by side, each as fast as it was measured among equals.

        All is taken from the table, on the careful side. A pipeline of depth P, one of D, took T(D, P) for M / D
        microbatches. For each microbatch more it is charged the whole T(D, P) / (M / D), fill and fixed costs and
        reduction included; for each one less it is credited only the slope (T(E, P) - T(D, P)) / (M / E - M / D) to
        the next smaller number E of pipelines that was measured, which is too small since fewer pipelines have less
        to reduce; nothing where there is none. Shares are whole microbatches, and the slowest pipeline sets the pace.
        """
        rates = {(depth,) * count: self.rate(count, depth) for count, depth in self.step_s}
        for count in sorted({count for count, _ in self.step_s if count > 1}):
            depths = sorted((depth for known, depth in self.step_s if known == count), reverse=True)
            for chosen in combinations_with_replacement(depths, count):
                if len(set(chosen)) > 1:
                    rates[chosen] = self.global_batch / self._mixed_s(count, chosen)
        return Listed(rates, self.global_batch)

    def _mixed_s(self, count: int, depths: Depths) -> float:
        share = self.microbatches / count
        low = min(self.step_s[count, depth] for depth in depths)
        high = max(self.step_s[count, depth] for depth in depths)
        for _ in range(40):
            middle = (low + high) / 2
            done = sum(self._within(count, depth, share, middle) for depth in depths)
            low, high = (low, middle) if done >= self.microbatches else (middle, high)
        return high

    def _within(self, count: int, depth: int, share: float, seconds: float) -> int:
        """Whole microbatches that such a pipeline is sure to finish in so many seconds."""
        took_s = self.step_s[count, depth]
        if seconds >= took_s:
            return int(share * seconds / took_s + 1e-9)
        saved_s = self._saved_s(count, depth, share)
        fewer = (took_s - seconds) / saved_s if saved_s > 0 else share
        return max(0, int(share - fewer + 1e-9))

    def _saved_s(self, count: int, depth: int, share: float) -> float:
        fewer = max((known for known, at in self.step_s if at == depth and known < count), default=None)
        if fewer is None:
            return 0.0
        more_s = self.step_s[fewer, depth] - self.step_s[count, depth]
        return max(0.0, more_s / (self.microbatches / fewer - share))


def load_table(path: Path, model: str | None) -> Table:
    """Raises: UserError: the file or the model in it cannot be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--table {path}: {error}; give a JSON file of measured throughput") from error
    if not isinstance(data, dict) or not data:
        raise UserError(f"--table {path}: should be an object with an entry for each model")
    name = model if model is not None else next(iter(data))
    if name not in data:
        raise UserError(f"--model {name!r} is not in {path}; it has {', '.join(sorted(data))}")
    try:
        return _table(name, data[name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"--table {path}, model {name!r}: {reason}; docs/simulating.md tells its fields") from error


def _table(name: str, data: Mapping[str, Any]) -> Table:
    step_s: dict[tuple[int, int], float] = {}
    for key, (step_ms, *_) in data["measured"].items():
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", key)
        if match is None or not float(step_ms) > 0:
            raise ValueError(f"measured: {key!r}: {step_ms!r} given; should be DxP: [milliseconds above 0, ...]")
        step_s[int(match[1]), int(match[2])] = float(step_ms) / 1000
    batch = int(data["global_batch"])
    migration = data.get("migration")
    if migration is not None:
        build_ms = {int(depth): float(value) for depth, value in data["model_build_ms"].items()}
        migration = Migration(**{key: float(value) for key, value in migration.items()}, build_ms=build_ms)
    layers = data.get("layers")
    return Table(
        name=name,
        global_batch=batch,
        microbatches=batch // int(data.get("microbatch", 1)),
        step_s=step_s,
        layer_bytes=_layer_bytes(layers) if layers is not None else None,
        migration=migration,
    )


def _layer_bytes(layers: Mapping[str, Any]) -> tuple[int, ...]:
    """`{"bytes_per_parameter": 12, "parameters": [[layers alike, parameters each], ...]}`."""
    each = int(layers["bytes_per_parameter"])
    return tuple(int(size) * each for count, size in layers["parameters"] for _ in range(int(count)))
