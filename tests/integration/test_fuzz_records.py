"""What stands in the store is a record or it is refused; readers go on with what they knew."""

import asyncio
import dataclasses
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.fuzzing import BYTES, JSON
from harness.records import JOB, KEYS, NODE, RECORDS
from holdfast.agent.mending import KINDS, Mender
from holdfast.control.coordinator import Coordinator
from holdfast.control.feed import events_of
from holdfast.control.job import job_of
from holdfast.control.member import Identity, Member
from holdfast.errors import ProtocolError
from holdfast.model.ids import SlotId, WorkerId
from holdfast.model.messages import Ready
from holdfast.model.records import DrainRecord, GenerationRecord, OutcomeRecord, StartRecord
from holdfast.model.wire import decode, encode
from holdfast.ports.store import KeyValue
from holdfast.stores.memory import MemoryStore
from holdfast.telemetry.recorder import Recorder

FUZZ = settings(max_examples=200, suppress_health_check=list(HealthCheck))


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something in it put in another's place, left out, or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(mutated(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(mutated(value[index])), *value[index + 1 :]]
    if isinstance(value, dict) and value and draw(st.booleans()):
        dropped = draw(st.sampled_from(sorted(value)))
        return {key: item for key, item in value.items() if key != dropped}
    return draw(JSON)


@st.composite
def written(draw: st.DrawFn) -> tuple[str, bytes]:
    """A key, and what somebody wrote there."""
    key = draw(st.sampled_from(sorted(RECORDS)))
    right = encode(RECORDS[key])
    whole = st.sampled_from(sorted(RECORDS)).map(lambda other: encode(RECORDS[other]))
    cut = st.integers(0, len(right)).map(lambda end: right[:end])
    body = json.loads(right)
    nearly = mutated(body["body"]).map(lambda made: json.dumps({"v": 1, "body": made}, separators=(",", ":")).encode())
    return key, draw(st.one_of(BYTES, cut, whole, nearly))


def test_a_plan_of_more_blocks_than_a_length_can_tell_is_refused() -> None:
    """Found by harness.guided."""
    right = encode(RECORDS[KEYS.start(1)])
    blocks = b'"blocks":{"start":0,"stop":'
    at = right.index(blocks) + len(blocks)
    huge = right[:at] + b"5" * 30 + right[right.index(b"}", at) :]

    with pytest.raises(ProtocolError, match="must have 0 <= start <= stop <= "):
        decode(StartRecord, huge)


@FUZZ
@given(
    value=st.one_of(BYTES, JSON.map(lambda made: json.dumps({"v": 1, "body": made}, separators=(",", ":")).encode()))
)
@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: type(record).__name__)
def test_anything_is_a_record_or_is_refused(record: object, value: bytes) -> None:
    kind = type(record)
    try:
        read = decode(kind, value)
    except ProtocolError:
        return
    assert decode(kind, encode(read)) == read


@pytest.mark.parametrize("record", RECORDS.values(), ids=lambda record: type(record).__name__)
def test_what_is_right_is_taken(record: object) -> None:
    assert dataclasses.is_dataclass(record)
    assert decode(type(record), encode(record)) == record


@FUZZ
@given(writes=st.lists(written(), max_size=6))
def test_a_watcher_tells_of_what_it_can_read_and_goes_on(writes: list[tuple[str, bytes]]) -> None:
    recorder = Recorder(JOB, name="toy", global_batch=4)
    for key, value in writes:
        recorder.apply(key, value, time.time())
    recorder.apply(KEYS.one("progress"), encode(RECORDS[KEYS.one("progress")]), time.time())
    assert recorder.view().step >= 1
    recorder.report()


@FUZZ
@given(writes=st.lists(written(), max_size=6))
def test_the_coordinator_decides_on_what_can_be_read(writes: list[tuple[str, bytes]]) -> None:
    """Also on records that are well formed and make no sense: it may decide anything but to break."""
    coordinator = Coordinator(job_of(JOB), now_s=0.0)
    for number, (key, value) in enumerate(writes):
        try:
            events = tuple(events_of(KEYS, key, value))
        except ProtocolError:
            continue
        for event in events:
            coordinator.handle(event, float(number))


def test_every_kind_of_record_is_fuzzed() -> None:
    assert {type(record) for record in RECORDS.values()} == set(KINDS.values())


@FUZZ
@given(writes=st.lists(written(), max_size=6))
def test_a_node_follows_what_can_be_read(writes: list[tuple[str, bytes]]) -> None:
    """Also a generation or a start that makes no sense."""
    identity = Identity(node=NODE, incarnation="i", host="127.0.0.1", port=1, domain="d", pid=1, slots=1)
    member = Member(identity, abort_s=1.0)
    list(member.begin())
    list(member.worker_said(0, Ready(slot=SlotId(NODE, 0), worker=WorkerId("w"), pid=2, address="127.0.0.1:1")))
    for number, (_, value) in enumerate(writes):
        for kind in (GenerationRecord, StartRecord, DrainRecord, OutcomeRecord):
            try:
                record = decode(kind, value)
            except ProtocolError:
                continue
            match record:
                case GenerationRecord():
                    list(member.generation_seen(record, float(number)))
                case StartRecord():
                    list(member.start_seen(record))
                case DrainRecord():
                    list(member.drain_seen(record, float(number)))
                case OutcomeRecord():
                    list(member.outcome_seen(record))
        list(member.time_passed(float(number)))


@FUZZ
@given(writes=st.lists(written(), max_size=6))
def test_a_mender_lets_pass_what_is_a_record_of_its_key_and_nothing_else(writes: list[tuple[str, bytes]]) -> None:

    async def work() -> None:
        mender = Mender(MemoryStore(), KEYS, NODE, lambda: True)
        for number, (key, value) in enumerate(writes, 1):
            kv = KeyValue(key=key, value=value, create_revision=1, mod_revision=number, version=number, lease=0)
            assert mender.see(key, kv) is is_record(type(RECORDS[key]), value)

    asyncio.run(work())


def is_record(kind: type[Any], value: bytes) -> bool:
    try:
        decode(kind, value)
    except ProtocolError:
        return False
    return True
