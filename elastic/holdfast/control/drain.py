"""A planned departure, as the coordinator has seen it."""

from dataclasses import dataclass

from holdfast.model.records import DrainRecord

# A node that is gone before so much of its grace is over, and was not released, did not leave by itself.
_SHARE_OF_GRACE = 0.9


@dataclass(slots=True)
class Drain:
    record: DrainRecord
    seen_s: float

    def explains(self, now_s: float) -> bool:
        """Whether its node may by now have left as planned. It may have seen the drain a little sooner."""
        return self.record.released or now_s >= self.seen_s + self.record.grace_s * _SHARE_OF_GRACE
