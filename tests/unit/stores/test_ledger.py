"""The ledger answers a write asked again from memory, and forgets it once the client has its answer."""

from holdfast.stores.ledger import Ledger


def test_a_reply_is_recalled_until_its_call_is_settled() -> None:
    ledger = Ledger()
    ledger.settle("s", 1)
    ledger.record("s", 1, b"first")
    ledger.record("s", 2, b"second")
    assert ledger.recall("s", 1) == b"first"
    ledger.settle("s", 2)
    assert ledger.recall("s", 1) is None
    assert ledger.is_settled("s", 1)
    assert ledger.recall("s", 2) == b"second"
    assert not ledger.is_settled("s", 2)


def test_an_older_word_on_what_is_settled_changes_nothing() -> None:
    ledger = Ledger()
    ledger.settle("s", 5)
    ledger.settle("s", 3)
    assert ledger.is_settled("s", 4)


def test_sessions_do_not_meet() -> None:
    ledger = Ledger()
    ledger.settle("a", 1)
    ledger.settle("b", 1)
    ledger.record("a", 1, b"a's")
    assert ledger.recall("b", 1) is None


def test_the_session_longest_unused_goes_first() -> None:
    ledger = Ledger(sessions_max=2)
    for session in ("a", "b"):
        ledger.settle(session, 1)
        ledger.record(session, 1, b"reply")
    ledger.settle("a", 1)
    ledger.settle("c", 1)
    assert ledger.recall("a", 1) == b"reply"
    ledger.settle("b", 1)
    assert ledger.recall("b", 1) is None
