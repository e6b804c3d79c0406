"""Only who knows the job's secret can ask, and only such answers count."""

import pytest

from holdfast.agent.credentials import WINDOW_S, Credentials
from holdfast.errors import ProtocolError, UserError

SECRET = b"0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def test_a_signed_request_is_taken_once() -> None:
    here, there = Credentials(SECRET, "job"), Credentials(SECRET, "job")
    signature = here.sign("GET", "/alive?a=1", b"body")

    assert there.verify(signature.authorization, "GET", "/alive?a=1", b"body") == signature.nonce
    with pytest.raises(ProtocolError, match="seen before"):
        there.verify(signature.authorization, "GET", "/alive?a=1", b"body")


@pytest.mark.parametrize(
    ("method", "target", "body"), [("POST", "/alive", b""), ("GET", "/alive?x", b""), ("GET", "/alive", b"x")]
)
def test_a_signature_is_for_one_method_target_and_body(method: str, target: str, body: bytes) -> None:
    credentials = Credentials(SECRET, "job")
    signature = credentials.sign("GET", "/alive")

    with pytest.raises(ProtocolError, match="secret"):
        credentials.verify(signature.authorization, method, target, body)


@pytest.mark.parametrize(("secret", "job"), [(b"another secret, longer", "job"), (SECRET, "other-job")])
def test_another_secret_or_job_signs_nothing_here(secret: bytes, job: str) -> None:
    signature = Credentials(secret, job).sign("GET", "/alive")

    with pytest.raises(ProtocolError, match="secret"):
        Credentials(SECRET, "job").verify(signature.authorization, "GET", "/alive")


@pytest.mark.parametrize("header", ["", "Holdfast", "Bearer x", "Holdfast 1 2 3", "Holdfast " + "é" * 99])
def test_a_request_without_a_signature_is_refused(header: str) -> None:
    with pytest.raises(ProtocolError, match="not signed"):
        Credentials(SECRET, "job").verify(header, "GET", "/alive")


@pytest.mark.parametrize(("off_s", "is_taken"), [(0.9, True), (-0.9, True), (1.1, False), (-1.1, False)])
def test_a_request_is_taken_within_a_window_of_its_date(off_s: float, is_taken: bool) -> None:
    clock = Clock()
    credentials = Credentials(SECRET, "job", clock)
    signature = credentials.sign("GET", "/alive")
    clock.now_s += off_s * WINDOW_S

    if is_taken:
        credentials.verify(signature.authorization, "GET", "/alive")
    else:
        with pytest.raises(ProtocolError, match="clocks may differ"):
            credentials.verify(signature.authorization, "GET", "/alive")


def test_a_request_is_not_taken_twice_however_the_clock_goes() -> None:
    clock = Clock()
    credentials = Credentials(SECRET, "job", clock)
    ahead = Clock()
    ahead.now_s += 0.99 * WINDOW_S
    signature = Credentials(SECRET, "job", ahead).sign("GET", "/alive")
    credentials.verify(signature.authorization, "GET", "/alive")

    for _ in range(40):
        clock.now_s += WINDOW_S / 10
        with pytest.raises(ProtocolError):
            credentials.verify(signature.authorization, "GET", "/alive")
        fresh = credentials.sign("GET", "/alive")  # so that old nonces are looked through
        credentials.verify(fresh.authorization, "GET", "/alive")


def test_an_answer_is_bound_to_its_request_status_and_body() -> None:
    credentials = Credentials(SECRET, "job")
    proof = credentials.answer("a" * 32, 200, b"body")
    credentials.verify_answer(proof, "a" * 32, 200, b"body")

    for nonce, status, body in (("b" * 32, 200, b"body"), ("a" * 32, 201, b"body"), ("a" * 32, 200, b"bodx")):
        with pytest.raises(ProtocolError):
            credentials.verify_answer(proof, nonce, status, body)
    with pytest.raises(ProtocolError):
        credentials.verify_answer("é", "a" * 32, 200, b"body")


def test_the_read_token_signs_no_request() -> None:
    credentials = Credentials(SECRET, "job")

    assert credentials.may_read(f"Bearer {credentials.read_token}")
    assert not credentials.may_read("Bearer ")
    assert not credentials.may_read(credentials.sign("GET", "/status").authorization)
    with pytest.raises(ProtocolError):
        credentials.verify(f"Bearer {credentials.read_token}", "GET", "/alive")


def test_a_secret_that_keeps_nobody_out_is_refused() -> None:
    with pytest.raises(UserError, match="openssl rand"):
        Credentials(b"secret", "job")
