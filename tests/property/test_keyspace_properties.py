"""The keyspace against a dumb model, which keeps a full copy of the keys for every revision."""

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.errors import CompactedError, LeaseExpiredError
from holdfast.ports.store import Compare, Delete, KeyValue, Operation, Put, WatchEvent
from holdfast.stores.keyspace import Keyspace

KEYS = ("a", "a/b", "a/b/c", "b", "é")
PREFIXES = ("", "a", "a/", "b", "z")
HISTORY_REVISIONS_MAX = 12

keys = st.sampled_from(KEYS)
values = st.sampled_from((b"", b"0", b"1"))
leases = st.integers(min_value=0, max_value=4)
revisions = st.integers(min_value=0, max_value=30)
operations = st.lists(
    st.one_of(st.builds(Put, key=keys, value=values, lease=leases), st.builds(Delete, key=keys)),
    max_size=4,
    unique_by=lambda operation: operation.key,
)
compares = st.lists(
    st.one_of(
        st.builds(Compare, key=keys, exists=st.booleans()),
        st.builds(Compare, key=keys, value=values),
        st.builds(Compare, key=keys, create_revision=revisions),
        st.builds(Compare, key=keys, mod_revision=revisions),
        st.builds(Compare, key=keys, lease=leases),
    ),
    max_size=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLease:
    ttl_s: float
    deadline_s: float


class Model:
    """Everything by copying and scanning; `states[r]` is all there was at revision r."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, KeyValue]] = {1: {}}
        self.leases: dict[int, ModelLease] = {}
        self.granted = 0
        self.oldest = 1

    @property
    def revision(self) -> int:
        return max(self.states)

    @property
    def state(self) -> dict[str, KeyValue]:
        return self.states[self.revision]

    def holds(self, compare: Compare) -> bool:
        absent = KeyValue(key="", value=b"", create_revision=0, mod_revision=0, version=0, lease=0)
        kv = self.state.get(compare.key, absent)
        return {
            compare.exists is not None: (kv is not absent) == compare.exists,
            compare.value is not None: kv is not absent and kv.value == compare.value,
            compare.create_revision is not None: kv.create_revision == compare.create_revision,
            compare.mod_revision is not None: kv.mod_revision == compare.mod_revision,
            compare.lease is not None: kv.lease == compare.lease,
        }[True]

    def has_leases(self, wanted: list[Operation]) -> bool:
        return all(op.lease in self.leases for op in wanted if isinstance(op, Put) and op.lease)

    def write(self, wanted: list[Operation]) -> None:
        revision, after = self.revision + 1, dict(self.state)
        for op in wanted:
            before = after.pop(op.key, None)
            if isinstance(op, Put):
                created, version = (before.create_revision, before.version + 1) if before else (revision, 1)
                after[op.key] = KeyValue(
                    key=op.key,
                    value=op.value,
                    create_revision=created,
                    mod_revision=revision,
                    version=version,
                    lease=op.lease,
                )
        if after != self.state:
            self.states[revision] = after
            self.oldest = max(self.oldest, revision + 1 - HISTORY_REVISIONS_MAX)

    def end_lease(self, lease: int) -> None:
        self.write([Delete(key=key) for key, kv in self.state.items() if kv.lease == lease])
        self.leases.pop(lease, None)

    def events(self, prefix: str, revision: int) -> set[WatchEvent]:
        before, after = self.states[revision - 1], self.states[revision]
        events = set()
        for key in before.keys() | after.keys():
            if key.startswith(prefix) and before.get(key) != after.get(key):
                gone = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0, lease=0)
                made = after.get(key)
                event = WatchEvent(kind="put" if made else "delete", kv=made or gone, revision=revision)
                events.add(event)
        return events


class KeyspaceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.keyspace = Keyspace(history_revisions_max=HISTORY_REVISIONS_MAX)
        self.model = Model()
        self.now_s = 0.0

    @rule(compares=compares, then=operations, otherwise=operations)
    def transact(self, compares: list[Compare], then: list[Operation], otherwise: list[Operation]) -> None:
        succeeds = all(map(self.model.holds, compares))
        branch = then if succeeds else otherwise
        if not self.model.has_leases(branch):
            with pytest.raises(LeaseExpiredError):
                self.keyspace.transact(compares, then, otherwise)
            return
        result = self.keyspace.transact(compares, then, otherwise)
        self.model.write(branch)
        assert (result.succeeded, result.revision) == (succeeds, self.model.revision)

    @rule(key=keys, value=values)
    def put(self, key: str, value: bytes) -> None:
        revision = self.keyspace.put(key, value)
        self.model.write([Put(key=key, value=value)])
        assert revision == self.model.revision

    @rule(key=keys)
    def delete(self, key: str) -> None:
        assert self.keyspace.delete(key) == (key in self.model.state)
        self.model.write([Delete(key=key)])

    @precondition(lambda self: self.model.granted < 4)
    @rule(ttl_s=st.integers(min_value=1, max_value=5))
    def grant(self, ttl_s: int) -> None:
        lease = self.keyspace.grant(ttl_s, now_s=self.now_s)
        self.model.granted += 1
        assert lease == self.model.granted
        self.model.leases[lease] = ModelLease(ttl_s=ttl_s, deadline_s=self.now_s + ttl_s)

    @rule(lease=leases)
    def keep_alive(self, lease: int) -> None:
        held = self.model.leases.get(lease)
        if held is None:
            with pytest.raises(LeaseExpiredError):
                self.keyspace.keep_alive(lease, now_s=self.now_s)
            return
        assert self.keyspace.keep_alive(lease, now_s=self.now_s) == held.ttl_s
        self.model.leases[lease] = replace(held, deadline_s=self.now_s + held.ttl_s)

    @rule(lease=leases)
    def revoke(self, lease: int) -> None:
        self.keyspace.revoke(lease)
        if lease in self.model.leases:
            self.model.end_lease(lease)

    @rule(passed_s=st.sampled_from((0.0, 0.5, 1.0, 3.0)))
    def expire(self, passed_s: float) -> None:
        self.now_s += passed_s
        due = sorted((held.deadline_s, lease) for lease, held in self.model.leases.items())
        ended = tuple(lease for deadline_s, lease in due if deadline_s <= self.now_s)
        assert self.keyspace.expire(self.now_s) == ended
        for lease in ended:
            self.model.end_lease(lease)

    @rule()
    def renew_leases(self) -> None:
        self.keyspace.renew_leases(now_s=self.now_s)
        for lease, held in self.model.leases.items():
            self.model.leases[lease] = replace(held, deadline_s=self.now_s + held.ttl_s)

    @rule(back=st.integers(min_value=-1, max_value=6))
    def compact(self, back: int) -> None:
        self.keyspace.compact(self.model.revision - back)
        self.model.oldest = max(self.model.oldest, self.model.revision - back)

    @rule(prefix=st.sampled_from(PREFIXES), from_revision=st.integers(min_value=1, max_value=40))
    def watch_replays_exactly(self, prefix: str, from_revision: int) -> None:
        if from_revision < self.model.oldest:
            with pytest.raises(CompactedError):
                self.keyspace.history(prefix, from_revision)
            return
        expected = [self.model.events(prefix, r) for r in range(max(2, from_revision), self.model.revision + 1)]
        batches = list(self.keyspace.history(prefix, from_revision))
        assert [set(batch) for batch in batches] == [events for events in expected if events]
        assert all(len({event.kv.key for event in batch}) == len(batch) for batch in batches)

    @rule(prefix=st.sampled_from(PREFIXES))
    def read_prefix(self, prefix: str) -> None:
        snapshot = self.keyspace.get_prefix(prefix)
        matching = [kv for key, kv in sorted(self.model.state.items()) if key.startswith(prefix)]
        assert (snapshot.revision, list(snapshot.kvs)) == (self.model.revision, matching)

    @invariant()
    def agrees(self) -> None:
        assert self.keyspace.revision == self.model.revision
        assert self.keyspace.oldest_revision == self.model.oldest
        assert {key: self.keyspace.get(key) for key in KEYS} == {key: self.model.state.get(key) for key in KEYS}

    @invariant()
    def next_expiry_is_the_soonest(self) -> None:
        deadlines = [held.deadline_s for held in self.model.leases.values()]
        assert self.keyspace.next_expiry() == min(deadlines, default=None)

    @invariant()
    def every_leased_key_has_its_lease(self) -> None:
        assert {kv.lease for kv in self.model.state.values()} - {0} <= self.model.leases.keys()


TestKeyspace = KeyspaceMachine.TestCase
TestKeyspace.settings = settings(max_examples=150, stateful_step_count=50)
