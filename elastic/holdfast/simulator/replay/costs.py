"""What it takes to get from one layout to the next, in seconds without a step: Parcae's constants, or our own."""

from dataclasses import dataclass, replace
from typing import Protocol

from holdfast.simulator.replay.floor import Move
from holdfast.simulator.replay.model import Model
from holdfast.simulator.replay.table import Migration
from holdfast.simulator.replay.yields import Depths

# Measured on a real control plane: a machine that vanished kept training for 4.8 s, one that was killed for about 1 s.
_SILENCE_S = 3.8


class Costs(Protocol):
    """`step_s`: of the layout before, since what is in flight is lost with a node that goes unannounced."""

    @property
    def warm_up_s(self) -> float:
        """From when a node comes until it can take part; the others train meanwhile."""
        ...

    def seconds(self, move: Move, *, step_s: float, noticed: bool) -> float: ...

    def start_s(self, depths: Depths) -> float: ...


@dataclass(frozen=True, slots=True)
class ParcaeCosts:
    """Parcae's constants (NSDI'24 and its public cost model) for a given set of actions.

    Where stages keep their layers and only pipelines go, groups are made anew (intra-stage migration). Otherwise the
    model is built anew too, and layers travel at the link's measured speed: to all who lack some at once, the node that
    receives or sends most sets the pace. With newcomers each group takes longer and a rendezvous comes first. As there,
    no step in flight is lost, and no state: an announced node has handed over all before it goes.
    """

    migration: Migration
    model: Model
    are_warm: bool = False  # newcomers meet beside the running job: their rendezvous stops nobody

    @property
    def warm_up_s(self) -> float:
        return self.migration.rendezvous_ms / 1000 if self.are_warm else 0.0

    def groups(self, depths: Depths) -> int:
        """Of D pipelines of P stages: D, P, one for all, and D P between neighbours. Pipelines of different depth have
        as many data-parallel sets as there are runs of layers with the same holders."""
        starts = {span.start for depth in set(depths) for span in self.model.cuts(depth)}
        return len(depths) + len(starts) + 1 + sum(depths)

    def regroup_s(self, depths: Depths, *, newcomers: bool) -> float:
        each_ms = self.migration.group_add_ms if newcomers else self.migration.group_keep_ms
        return (self.migration.group_fixed_ms + each_ms * self.groups(depths) + self.migration.process_ms) / 1000

    def restart_s(self, depths: Depths, *, newcomers: bool) -> float:
        """Groups and model anew, and no bytes."""
        rendezvous_ms = self.migration.rendezvous_ms if newcomers and not self.are_warm else 0.0
        return (rendezvous_ms + self.build_ms(depths)) / 1000 + self.regroup_s(depths, newcomers=newcomers)

    def build_ms(self, depths: Depths) -> float:
        """Of the largest stage. A depth that was not measured counts as the next smaller one that was."""
        known = self.migration.build_ms
        depth = min(depths)
        return known[max((one for one in known if one <= depth), default=min(known))]

    def link_s(self, size_bytes: float) -> float:
        return size_bytes / self.migration.link_bytes_per_s

    def seconds(self, move: Move, *, step_s: float, noticed: bool) -> float:
        if not move.newcomers and not move.moved_bytes and not move.is_resized:
            return self.regroup_s(move.after, newcomers=False)
        restart_s = self.restart_s(move.after, newcomers=move.newcomers > 0)
        return restart_s + self.link_s(max(move.received_bytes, move.sent_bytes))

    def start_s(self, depths: Depths) -> float:
        return self.restart_s(depths, newcomers=True) + self.warm_up_s


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCosts:
    """Holdfast's own, in seconds, as benchmarks/recovery.py once measured them on four local nodes; now they are less.

    A loss stops the step in flight, which is done again: charged in full, though half of it is gone on average. Workers
    of a joining node are warm before it joins, so its start-up stops nobody. The seconds are of gloo on a loopback; a
    cluster's process groups may take longer, which `group_s` for each member makes up for. Where all holders of a layer
    go unannounced at once, the job goes back to its last checkpoint: half of `checkpoint_steps` are done again on
    average. `detect_s`: of `loss_s`, until the leader knows of it, as of a node whose connections break.
    """

    loss_s: float = 0.64
    detect_s: float = 0.1
    drain_s: float = 0.21
    join_s: float = 0.43
    group_s: float = 0.0
    link_bytes_per_s: float = 1.25e9
    checkpoint_steps: int = 100
    start_up_s: float = 10.0  # of a node's processes

    def silent(self) -> "MeasuredCosts":
        """Where nodes vanish with their connections open: they are lost once their lease is (docs/kubernetes.md)."""
        return replace(self, loss_s=self.loss_s + _SILENCE_S, detect_s=self.detect_s + _SILENCE_S)

    @property
    def warm_up_s(self) -> float:
        return self.start_up_s

    def seconds(self, move: Move, *, step_s: float, noticed: bool) -> float:
        lost_s = 0.0
        if move.gone:
            lost_s = self.drain_s if noticed else self.loss_s + step_s
        if move.absent_bytes and not noticed:
            lost_s += self.checkpoint_steps / 2 * step_s
        joined_s = self.join_s if move.newcomers or not move.gone else 0.0
        transfer_s = max(move.received_bytes, move.sent_bytes) / self.link_bytes_per_s
        return max(lost_s, joined_s) + transfer_s + self.group_s * sum(move.after)

    def start_s(self, depths: Depths) -> float:
        return self.start_up_s
