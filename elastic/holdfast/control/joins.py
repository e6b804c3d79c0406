"""How many workers came, and when: joins that are close together become one generation (`control.joining`)."""

from dataclasses import dataclass


@dataclass(slots=True)
class Joins:
    """New workers since the generation began."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
