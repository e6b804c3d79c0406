"""A cost model with four parameters, fitted to measured throughput, and layouts of any size by it."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from holdfast.errors import UserError
from holdfast.planner.profile import LayerProfile, Link, Profile
from holdfast.simulator.replay.table import Table
from holdfast.simulator.replay.yields import Depths, Spread

Entry = tuple[int, int]
# A fit has as many parameters.
ENTRIES_MIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A step of D pipelines of P stages, M / D microbatches each, L of the layers on the slowest stage, takes

        (M / D - 1) (layer_s L + stage_s) + layer_s layers + stage_s P + 2 (D - 1) / D (layers / P) reduce_s + fixed_s

    Under 1F1B the first microbatch passes all stages and the others follow at the pace of the slowest (PipeDream-Flush,
    ICML'21); a microbatch costs a stage its layers and a fixed time for what is
    sent and launched; a ring reduces the gradients of a stage (Patarasuk and Yuan, 2009), of mean size, since stages
    that end last, the first ones, are not the largest; the rest is there at every step. `layers`:
    how many like the largest kind the model has, its head counted as one, its embedding as none.
    """

    layers: int
    microbatches: int
    global_batch: int
    layer_s: float
    stage_s: float
    reduce_s: float
    fixed_s: float

    def step_s(self, pipelines: int, depth: int) -> float:
        """Of equal pipelines."""
        terms = _terms(self.layers, self.microbatches, pipelines, depth)
        return sum(term * each for term, each in zip(terms, self._parameters, strict=True))

    def mixed_s(self, depths: Depths) -> float | None:
        """Of any pipelines, with the shares of microbatches that end them together; None where there are too few."""
        if sum(depths) > self.microbatches:
            return None
        # Of each kind of pipeline: how many, their first microbatch, each further one.
        kinds = [
            (count, self.layer_s * self.layers + self.stage_s * depth, self.layer_s * self._most(depth) + self.stage_s)
            for depth, count in Counter(depths).items()
        ]
        low = 0.0
        high = max(first_s + each_s * self.microbatches for _, first_s, each_s in kinds)
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            done = 0
            for count, first_s, each_s in kinds:
                if middle >= first_s:
                    done += count * (int((middle - first_s) / each_s + 1e-9) + 1)
            low, high = (low, middle) if done >= self.microbatches else (middle, high)
        ring = 2 * (len(depths) - 1) / len(depths) * self.layers / min(depths) * self.reduce_s
        return high + ring + self.fixed_s

    def rate(self, depths: Depths) -> float:
        """Samples a second; 0 where it cannot run."""
        seconds = self.mixed_s(depths) if depths else None
        return self.global_batch / seconds if seconds else 0.0

    def layouts(self, *, shallowest: int) -> Spread:
        """Of any number of nodes; `shallowest`: as memory asks for."""
        return Spread(self.rate, self.global_batch, shallowest=shallowest, deepest=self.layers)

    def for_batch(self, global_batch: int) -> "Fit":
        """The same model with another batch of as large microbatches."""
        microbatches = max(1, global_batch * self.microbatches // self.global_batch)
        return replace(self, global_batch=global_batch, microbatches=microbatches)

    def profile(self, table: Table) -> Profile:
        """The same in the planner's terms: layers alike but for an embedding that costs nothing, all gradients of a
        stage reduced over the link whose speed was fitted, `stage_s` half for each boundary that a stage has."""
        assert table.layer_bytes is not None, "a profile has bytes"
        param_bytes = [size // 3 for size in table.layer_bytes]  # of weight and two moments
        usual = sorted(param_bytes)[len(param_bytes) // 2]
        speed = usual / self.reduce_s if self.reduce_s > 0 else 1e12
        layers = tuple(
            LayerProfile(
                name=f"layer-{number}",
                forward_s=self.layer_s / 3 if number else 0.0,
                backward_s=self.layer_s * 2 / 3 if number else 0.0,
                param_bytes=size,
                state_bytes=3 * size,
                activation_bytes=0,
                output_bytes=0,
            )
            for number, size in enumerate(param_bytes)
        )
        link = Link(bytes_per_s=speed, latency_s=self.stage_s / 2)
        return Profile(
            fingerprint=f"fitted:{table.name}",
            layers=layers,
            between_nodes=link,
            within_node=link,
            fixed_s=self.fixed_s,
        )

    def _most(self, depth: int) -> int:
        return -(-self.layers // depth)

    @property
    def _parameters(self) -> tuple[float, float, float, float]:
        return self.layer_s, self.stage_s, self.reduce_s, self.fixed_s


def _terms(layers: int, microbatches: int, pipelines: int, depth: int) -> tuple[float, float, float, float]:
    most = -(-layers // depth)
    further = -(-microbatches // pipelines) - 1
    return further * most + layers, further + depth, 2 * (pipelines - 1) / pipelines * layers / depth, 1.0


def fit(table: Table, entries: Collection[Entry]) -> Fit:
    """To these entries of the table: least squares of the relative error, no parameter below 0 (Lawson and Hanson).

    Raises:
        UserError: they are too few.
    """
    from scipy.optimize import nnls  # here: it takes a third of a second to import

    if len(entries) < ENTRIES_MIN or table.layer_bytes is None:
        raise UserError(
            f"table {table.name!r}: {len(entries)} entries; a fit needs {ENTRIES_MIN} and the model's layers"
        )
    layers = len(table.layer_bytes) - 1
    rows, ones = [], []
    for pipelines, depth in sorted(entries):
        step_s = table.step_s[pipelines, depth]
        rows.append([term / step_s for term in _terms(layers, table.microbatches, pipelines, depth)])
        ones.append(1.0)
    found, _ = nnls(rows, ones)
    layer_s, stage_s, reduce_s, fixed_s = map(float, found)
    return Fit(
        layers=layers,
        microbatches=table.microbatches,
        global_batch=table.global_batch,
        layer_s=layer_s,
        stage_s=stage_s,
        reduce_s=reduce_s,
        fixed_s=fixed_s,
    )


def every_other(table: Table) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """(to fit, to test): entries in order of pipelines and depth, in turns."""
    entries = sorted(table.step_s)
    return tuple(entries[::2]), tuple(entries[1::2])


def errors(model: Fit, table: Table, entries: Iterable[Entry]) -> list[float]:
    """Relative, of the predicted step time, for each entry."""
    return [abs(model.step_s(*entry) - table.step_s[entry]) / table.step_s[entry] for entry in entries]


def chosen(model: Fit, table: Table, nodes: int, known: Collection[Entry] = ()) -> Entry:
    """The layout of the table, for at most so many nodes, that is held for fastest: by the model, or by its measured
    time where it is `known`, as a job knows the layouts that it has run."""
    fitting = [entry for entry in table.step_s if entry[0] * entry[1] <= nodes]
    return min(fitting, key=lambda entry: (table.step_s[entry] if entry in known else model.step_s(*entry), entry))
