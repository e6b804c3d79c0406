"""The keyspace keeps etcd's rules; what the adapters share is checked by the conformance suite."""

import pytest

from holdfast.errors import CompactedError, LeaseExpiredError
from holdfast.ports.store import Compare, Delete, Put
from holdfast.stores.keyspace import Keyspace


def test_an_empty_keyspace_is_at_revision_one_as_in_etcd() -> None:
    keyspace = Keyspace()
    assert keyspace.revision == 1
    assert keyspace.put("a", b"") == 2


def test_put_counts_versions_and_keeps_the_creation() -> None:
    keyspace = Keyspace()
    created = keyspace.put("a", b"1")
    modified = keyspace.put("a", b"2")
    kv = keyspace.get("a")
    assert kv is not None
    assert (kv.value, kv.create_revision, kv.mod_revision, kv.version) == (b"2", created, modified, 2)


def test_a_transaction_with_a_dead_lease_changes_nothing() -> None:
    keyspace = Keyspace()
    before = keyspace.put("a", b"old")
    with pytest.raises(LeaseExpiredError, match="lease 7"):
        keyspace.transact([], [Put(key="a", value=b"new"), Put(key="b", value=b"", lease=7)])
    assert keyspace.revision == before
    assert [kv.value for kv in keyspace.get_prefix("").kvs] == [b"old"]


def test_the_branch_not_taken_may_name_a_dead_lease() -> None:
    keyspace = Keyspace()
    result = keyspace.transact([Compare(key="a", exists=True)], [Put(key="a", value=b"", lease=7)])
    assert not result.succeeded


def test_leases_expire_soonest_first_each_in_its_own_revision() -> None:
    keyspace = Keyspace()
    late, soon = keyspace.grant(5, now_s=0), keyspace.grant(3, now_s=0)
    keyspace.put("late", b"", late)
    keyspace.put("soon/b", b"", soon)
    start = keyspace.put("soon/a", b"", soon)
    assert keyspace.next_expiry() == 3
    assert keyspace.expire(2.9) == ()
    assert keyspace.expire(5) == (soon, late)
    deleted = [[event.kv.key for event in batch] for batch in keyspace.history("", start + 1)]
    assert deleted == [["soon/a", "soon/b"], ["late"]]
    assert keyspace.next_expiry() is None


def test_a_lease_without_keys_expires_without_a_revision() -> None:
    keyspace = Keyspace()
    lease = keyspace.grant(1, now_s=0)
    assert keyspace.expire(1) == (lease,)
    assert keyspace.revision == 1


def test_keep_alive_moves_the_expiry() -> None:
    keyspace = Keyspace()
    lease = keyspace.grant(3, now_s=0)
    assert keyspace.keep_alive(lease, now_s=2) == 3
    assert keyspace.next_expiry() == 5
    assert keyspace.expire(4.9) == ()


def test_keep_alive_of_a_lease_that_is_due_comes_too_late() -> None:
    keyspace = Keyspace()
    lease = keyspace.grant(3, now_s=0)
    with pytest.raises(LeaseExpiredError):
        keyspace.keep_alive(lease, now_s=3)


def test_a_key_put_again_without_its_lease_outlives_it() -> None:
    keyspace = Keyspace()
    lease = keyspace.grant(3, now_s=0)
    keyspace.put("a", b"", lease)
    keyspace.put("a", b"")
    keyspace.expire(3)
    assert keyspace.get("a") is not None


def test_a_key_moved_to_another_lease_hangs_on_that_alone() -> None:
    keyspace = Keyspace()
    first, second = keyspace.grant(3, now_s=0), keyspace.grant(9, now_s=0)
    keyspace.put("a", b"", first)
    keyspace.put("a", b"", second)
    keyspace.expire(3)
    assert keyspace.get("a") is not None
    keyspace.expire(9)
    assert keyspace.get("a") is None


def test_renewing_all_leases_gives_each_its_own_time_again() -> None:
    keyspace = Keyspace()
    short, long = keyspace.grant(1, now_s=0), keyspace.grant(4, now_s=0)
    keyspace.renew_leases(now_s=100)
    assert keyspace.expire(100.9) == ()
    assert keyspace.expire(101) == (short,)
    assert keyspace.expire(104) == (long,)


def test_lease_ids_are_never_used_twice() -> None:
    keyspace = Keyspace()
    first = keyspace.grant(1, now_s=0)
    keyspace.revoke(first)
    assert keyspace.grant(1, now_s=0) == first + 1


def test_history_is_bounded_and_says_so() -> None:
    keyspace = Keyspace(history_revisions_max=3)
    for value in range(10):
        keyspace.put("a", bytes([value]))
    assert keyspace.oldest_revision == keyspace.revision - 2
    kept = [batch[0].kv.value for batch in keyspace.history("a", keyspace.oldest_revision)]
    assert kept == [b"\x07", b"\x08", b"\x09"]
    with pytest.raises(CompactedError, match=f"revision {keyspace.oldest_revision - 1} is compacted"):
        keyspace.history("a", keyspace.oldest_revision - 1)


def test_compaction_leaves_the_keys() -> None:
    keyspace = Keyspace()
    revision = keyspace.put("a", b"kept")
    keyspace.compact(revision + 1)
    assert [kv.value for kv in keyspace.get_prefix("").kvs] == [b"kept"]
    assert list(keyspace.history("", revision + 1)) == []


def test_compaction_cannot_pass_the_present() -> None:
    with pytest.raises(ValueError, match="newest that can be compacted to is 2"):
        Keyspace().compact(3)


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan"), float("inf")])
def test_a_lease_needs_a_positive_finite_time(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        Keyspace().grant(ttl_s, now_s=0)


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="history_revisions_max is 0"):
        Keyspace(history_revisions_max=0)


def test_a_compare_takes_exactly_one_condition() -> None:
    with pytest.raises(ValueError, match="has 0 conditions"):
        Compare(key="a")
    with pytest.raises(ValueError, match="has 2 conditions"):
        Compare(key="a", exists=True, lease=1)


def test_operations_need_a_key() -> None:
    with pytest.raises(ValueError, match="key is ''"):
        Put(key="", value=b"")
    with pytest.raises(ValueError, match="key is ''"):
        Delete(key="")
    with pytest.raises(ValueError, match="lease of Put on key 'a' is -1"):
        Put(key="a", value=b"", lease=-1)
