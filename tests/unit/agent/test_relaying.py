"""What only a checkpoint has is read once, and reaches all that want it."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from holdfast.agent.relaying import asked, lines
from holdfast.model.ids import NodeId, SlotId
from holdfast.model.records import Restore

NODES = [NodeId(f"node-{n}") for n in range(12)]


@st.composite
def restores(draw: st.DrawFn) -> list[Restore]:
    found = []
    for layer in range(draw(st.integers(1, 8))):
        in_ram = draw(st.booleans())
        for node in draw(st.sets(st.sampled_from(NODES), min_size=1)):
            for index in range(draw(st.integers(1, 2))):
                sources = (NODES[0],) if in_ram else ()
                found.append(Restore(layer=layer, target=SlotId(node, index), sources=sources))
    return found


@given(wanted=restores())
def test_each_layer_is_read_once_and_each_node_asks_those_before_it_up_to_who_reads(wanted: list[Restore]) -> None:
    from_checkpoint = {restore.layer for restore in wanted if not restore.sources}
    found = lines(wanted, [100 + layer for layer in range(8)])

    assert found.keys() == from_checkpoint
    for layer, line in found.items():
        assert sorted(line) == sorted({restore.target.node for restore in wanted if restore.layer == layer})
        readers = [node for node in line if not asked(line, node)]
        assert readers == [line[0]]
        for place, node in enumerate(line[1:], 1):
            whom = asked(line, node)
            assert whom[-1] == line[0]
            assert all(line.index(other) < place for other in whom), "nobody waits in a circle"
            assert len(set(whom)) == len(whom)
        sends = Counter(asked(line, node)[0] for node in line[1:])
        assert max(sends.values(), default=0) <= 3


def test_replicas_read_equal_shares() -> None:
    wanted = [Restore(layer=layer, target=SlotId(node, 0), sources=()) for layer in range(8) for node in NODES[:4]]
    found = lines(wanted, [100] * 8)
    assert Counter(line[0] for line in found.values()) == dict.fromkeys(NODES[:4], 2)
