"""What scripts and their machine's agent say to each other, and what ranks conclude from it together."""

import os
import socket
import time
from collections.abc import Iterator

import pytest

from holdfast_checkpoint.agent_messages import (
    FRAME_HEAD,
    Done,
    Look,
    Named,
    Opened,
    Refused,
    Seen,
    Sights,
    decode_answer,
    encode,
    receive,
    script_of,
    send,
)
from holdfast_checkpoint.dcp.agreeing import AgentView, agreed, chosen_folder
from holdfast_checkpoint.errors import FormatError
from holdfast_checkpoint.folders import folder_of


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        one.settimeout(5)
        other.settimeout(5)
        yield one, other


def test_a_message_brings_its_file_along(pair: tuple[socket.socket, socket.socket]) -> None:
    fd = os.memfd_create("one")
    os.write(fd, b"content")
    send(pair[0], b"first", fd)
    send(pair[0], b"second", None)
    os.close(fd)
    data, given = receive(pair[1])
    assert data == b"first"
    assert given is not None
    assert os.pread(given, 100, 0) == b"content"
    assert not os.get_inheritable(given)
    os.close(given)
    assert receive(pair[1]) == (b"second", None)


def test_a_message_that_would_fill_the_memory_or_ends_early_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[0].sendall(FRAME_HEAD.pack(1 << 31))
    with pytest.raises(FormatError, match="2147483648 bytes"):
        receive(pair[1])
    pair[0].sendall(FRAME_HEAD.pack(10) + b"abc")
    pair[0].close()
    with pytest.raises(ConnectionResetError, match="in the middle"):
        receive(pair[1])


@pytest.mark.parametrize(
    "answer",
    [
        Sights(node="a", saves=(Seen(step=3, generation=4, is_safe=True),), is_copying=False),
        Opened(source="b"),
        Done(),
        Refused(reason="no", is_missing=True),
    ],
)
def test_answers_come_back_as_they_were_said(answer: Sights | Opened | Done | Refused) -> None:
    assert decode_answer(encode(answer)) == answer


@pytest.mark.parametrize(
    "data",
    [b"", b"Done", b"Done {}", b'Done {"v":2,"body":{}}', b'Opened {"v":1,"body":{"x":1}}', encode(Look(script="x"))],
)
def test_what_no_agent_of_this_version_answers_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_answer(data)


def test_a_save_is_named_for_its_time_and_found_by_its_folder() -> None:
    before_s = int(time.time())
    named = [Named.now(9, 0)]
    time.sleep(0.001)  # longer than what such a name tells apart
    named.append(Named.now(3, 0))
    assert before_s <= named[0].made_s <= time.time()
    assert named == sorted(named)
    assert [Named.of_folder(one.folder) for one in named] == named
    assert [one.folder for one in sorted(named, key=lambda one: one.run)] == [one.folder for one in named]
    ahead = Named.now(1, named[1].generation + 10**12)  # known from a machine whose clock is ahead
    assert ahead > named[1]
    assert Named.of_folder(folder_of(4, "3f2a9c1b", 2)) is None  # of a job
    # A blob's address between agents has room for 18 digits.
    assert all(len(str(one.generation)) <= 18 for one in named)


@pytest.mark.parametrize(
    "last", ["step-40", "step_40", "STEP40", "global_step1000", "epoch=3-step=400", "checkpoint_00040", "iter.7"]
)
def test_saves_to_a_url_each_are_of_one_script_if_the_url_ends_in_a_step(last: str) -> None:
    assert script_of(f"s3://bucket/run/{last}") == script_of("s3://bucket/run")


@pytest.mark.parametrize("url", ["s3://bucket/run-7", "s3://bucket/7", "file:///step-7", "s3://step-7", "s3://b/steps"])
def test_a_url_that_may_name_a_run_is_a_script_of_its_own(url: str) -> None:
    assert script_of(url) != script_of(url.rpartition("/")[0])


def test_a_script_that_is_named_is_the_same_at_every_url_and_no_url_has_its_name() -> None:
    assert script_of("s3://b/1", "mine") == script_of("s3://b/2", "mine") != script_of("s3://b/2", "theirs")
    assert script_of("s3://b/1", "mine") != script_of("mine")


def _view(*saves: tuple[int, bool], is_copying: bool = True) -> AgentView:
    seen = tuple(Seen(step=generation, generation=generation, is_safe=is_safe) for generation, is_safe in saves)
    return AgentView(saves=seen, is_copying=is_copying)


def test_ranks_keep_the_newest_save_that_any_agent_saw_safe() -> None:
    handing = agreed([_view((1, True), (2, True), (3, False)), _view((1, True), (2, False))])
    assert (handing.is_kept, handing.kept, handing.newest) == (True, Named(2, 2), 3)


def test_ranks_keep_the_newest_whole_save_where_none_is_safe_or_copies_are_not_made() -> None:
    assert agreed([_view((1, False), (2, False)), _view((1, False))]).kept == Named(2, 2)
    assert agreed([_view((1, True), (2, False)), _view((1, True), (2, False), is_copying=False)]).kept == Named(2, 2)


def test_an_agent_that_has_heard_of_less_makes_no_other_drop_the_last_save() -> None:
    assert agreed([_view((2, False)), _view((1, False))]).kept == Named(2, 2)
    assert agreed([_view(), _view((1, True))]).kept == Named(1, 1)
    assert agreed([_view(), _view()]).kept is None


def test_one_rank_without_an_agent_leaves_the_save_to_the_storage() -> None:
    handing = agreed([_view((1, True)), None])
    assert (handing.is_kept, handing.kept, handing.newest, handing.without) == (False, None, 1, 1)


def test_ranks_load_what_the_first_chose_or_else_the_newest_that_all_can() -> None:
    old, new, other = (folder_of(step, "r", 0) for step in (1, 2, 3))
    assert chosen_folder(new, [(new, old), (other, new)]) == new
    assert chosen_folder(other, [(other, new, old), (new, old)]) == new
    assert chosen_folder(other, [(other,), (old,)]) == other  # and who cannot read it says so
