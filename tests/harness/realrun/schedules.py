"""Random fault schedules that leave at least one copy of every layer alive: one seed, one schedule."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Faults for one run of `steps` steps that begins with `nodes` nodes of `slots` slots."""

    seed: int
    nodes: int
    slots: int
    depth: int
    steps: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        shape = f"{self.nodes} nodes x {self.slots} slots, depth {self.depth}"
        return f"seed {self.seed}: {shape}: " + "; ".join(self.faults)


def random_schedule(seed: int, steps: int) -> Schedule:
    """Either deep pipelines and one loss at a time, or replicas of the whole model and losses all at once."""
    rng = random.Random(seed)
    if rng.random() < 0.4:
        return _storm(rng, seed, steps)
    return _sequence(rng, seed, steps)


def _sequence(rng: random.Random, seed: int, steps: int) -> Schedule:
    """Losses far enough apart that the layers have two copies again before the next one."""
    slots = rng.choice([1, 1, 2])
    nodes = rng.randint(3, 4) if slots == 1 else rng.randint(2, 3)
    depth = rng.choice([1, 2, 2, 3])
    living = [f"node-{i}" for i in range(nodes)]
    after = nodes
    faults = []
    step = rng.randint(1, 3)
    while step < steps - 2:
        verbs = ["join", "kill worker"]
        if len(living) > 2:
            verbs += ["kill", "kill agent", "stop", "drain", "terminate"] * 2
        verb = rng.choice(verbs)
        if verb == "join":
            living.append(f"node-{after}")
            after += 1
            faults.append(f"join at step {step}")
            # It takes some steps until it is warm; a fault to it before that would hit nobody.
            living.remove(f"node-{after - 1}")
        elif verb == "kill worker":
            faults.append(f"kill worker {rng.choice(living)}/{rng.randrange(slots)} at step {step}")
        else:
            victim = rng.choice(living)
            living.remove(victim)
            faults.append(f"{verb} {victim} at step {step}")
        step += rng.randint(3, 6)
    return Schedule(seed=seed, nodes=nodes, slots=slots, depth=depth, steps=steps, faults=tuple(faults))


def _storm(rng: random.Random, seed: int, steps: int) -> Schedule:
    """Every slot holds the whole model; all but node-0 may be hit, at the same time, also while reshaping."""
    nodes = rng.randint(2, 4)
    victims = [f"node-{i}" for i in range(1, nodes)]
    rng.shuffle(victims)
    faults = [f"join at step {rng.randint(1, steps // 2)}" for _ in range(rng.randint(0, 2))]
    burst = rng.randint(1, steps - 3)
    for victim in victims:
        verb = rng.choice(["kill", "kill agent", "stop", "drain", "terminate", "kill worker"])
        target = f"{victim}/0" if verb == "kill worker" else victim
        when = rng.choice(
            [f"at step {burst}", f"at step {rng.randint(1, steps - 2)}", f"after {rng.uniform(2, 8):.2f}s"]
        )
        faults.append(f"{verb} {target} {when}")
    rng.shuffle(faults)
    return Schedule(seed=seed, nodes=nodes, slots=1, depth=1, steps=steps, faults=tuple(faults))
