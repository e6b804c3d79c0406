"""What agents conclude from each other's records, compared with what it is meant to say."""

from functools import partial
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from harness.calls import calls_of
from holdfast.control.keeping import Holdings, holdings
from holdfast.model.ids import NodeId
from holdfast.model.keeping import HeldSave, KeeperRecord
from holdfast.model.records import AgentRef, Version

SCRIPT = "00112233aabbccdd"
FIRST, SECOND = Version(5, 100), Version(2, 200)  # the second is later, though of an earlier step
BLOBS = 2
_layers = st.sets(st.integers(0, BLOBS)).map(lambda found: dict.fromkeys(sorted(found), 7))


@st.composite
def _records(draw: st.DrawFn) -> list[KeeperRecord]:
    records = []
    for number in range(draw(st.integers(1, 4))):
        held = tuple(
            HeldSave(script=SCRIPT, version=version, blobs=BLOBS, own=draw(_layers), lent=draw(_layers))
            for version in draw(st.sets(st.sampled_from((FIRST, SECOND))).map(sorted))
        )
        other = HeldSave(script="ffffffffffffffff", version=FIRST, blobs=0, own={0: 1})
        node = NodeId(f"n{number}")
        domain = draw(st.sampled_from(("d0", "d1", "d2")))
        agent = AgentRef(node=node, incarnation=f"i{number}", host="h", port=1, domain=domain)
        records.append(KeeperRecord(agent=agent, held=(*held, other)))
    return records


def _is_whole(records: list[KeeperRecord], version: Version) -> bool:
    held = [save for record in records for save in record.held if (save.script, save.version) == (SCRIPT, version)]
    return set(chain.from_iterable((*save.own, *save.lent) for save in held)) == set(range(BLOBS + 1))


@given(_records())
def test_a_save_is_whole_if_every_blob_and_the_manifest_are_somewhere_and_the_last_made_is_the_newest(
    records: list[KeeperRecord],
) -> None:
    whole = holdings(records, SCRIPT).whole()
    assert whole == tuple(version for version in (FIRST, SECOND) if _is_whole(records, version))


@given(_records())
def test_a_save_is_safe_if_it_stays_whole_whichever_domain_is_lost(records: list[KeeperRecord]) -> None:
    found = holdings(records, SCRIPT)
    domains = {record.agent.domain for record in records}
    for version in (FIRST, SECOND):
        survives = all(
            _is_whole([record for record in records if record.agent.domain != lost], version) for lost in domains
        )
        # Where there is one domain alone, nothing can be done about it.
        meant = survives if len(domains) > 1 else _is_whole(records, version)
        assert found.is_safe(version, copies=1) is meant


@given(_records())
def test_once_the_placed_copies_are_taken_a_whole_save_is_safe(records: list[KeeperRecord]) -> None:
    found = holdings(records, SCRIPT)
    for version in found.whole():
        placed = found.placed(version, copies=1)
        saves = {node: dict(save.lent) for node, save in found.saves[version].items()}
        for copyings in placed.copyings.values():
            for copying in copyings:
                assert copying.layer in range(BLOBS + 1)
                assert NodeId(copying.source) in found.holders(version, copying.layer)
                saves.setdefault(NodeId(copying.target), {})[copying.layer] = 7
        after = {
            node: HeldSave(
                script=SCRIPT,
                version=version,
                blobs=BLOBS,
                own=found.saves[version][node].own if node in found.saves[version] else {},
                lent=lent,
            )
            for node, lent in saves.items()
        }
        assert Holdings(saves={version: after}, domains=found.domains).is_safe(version, copies=1)


def test_what_it_takes_to_work_it_out_grows_no_faster_than_the_nodes() -> None:
    few, many = (calls_of(partial(work_out, nodes)) for nodes in (100, 1000))
    assert many <= 11 * few


def work_out(nodes: int, blobs: int = 8) -> None:
    records = []
    for number in range(nodes):
        first, next_ones = number * blobs, (number + 1) % nodes * blobs
        save = HeldSave(
            script=SCRIPT,
            version=FIRST,
            blobs=nodes * blobs - 1,
            own=dict.fromkeys(range(first, first + blobs), 7),
            lent=dict.fromkeys(range(next_ones, next_ones + blobs), 7),
        )
        name = f"n{number}"
        agent = AgentRef(node=NodeId(name), incarnation=name, host="h", port=1, domain=name)
        records.append(KeeperRecord(agent=agent, held=(save,)))
    found = holdings(records, SCRIPT)
    assert found.is_safe(FIRST, copies=1)
    assert len(found.placed(FIRST, copies=1).copyings) == nodes * blobs


def test_who_made_a_blob_is_asked_before_who_took_it_over() -> None:
    def record(name: str, **held: dict[int, int]) -> KeeperRecord:
        agent = AgentRef(node=NodeId(name), incarnation=name, host="h", port=1, domain=name)
        return KeeperRecord(agent=agent, held=(HeldSave(script=SCRIPT, version=FIRST, blobs=BLOBS, **held),))

    found = holdings([record("a", lent={0: 7}), record("b", own={0: 7}), record("c", lent={0: 7})], SCRIPT)
    assert found.holders(FIRST, 0) == ("b", "a", "c")
    assert found.holders(SECOND, 0) == ()
