"""Coverage-guided fuzzing of all that reads bytes from outside: `python -m harness.guided TARGET [libFuzzer options]`.

It ends with another exit code than 0 at the first input that is neither taken nor refused.
"""

import asyncio
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["holdfast"]):
    from harness.records import JOB, KEYS, RECORDS
    from holdfast.agent.credentials import Credentials
    from holdfast.agent.workers import KINDS
    from holdfast.control.coordinator import Coordinator
    from holdfast.control.feed import events_of
    from holdfast.control.job import job_of
    from holdfast.errors import ProtocolError, UserError
    from holdfast.model.wire import decode, decode_message, encode
    from holdfast.stores.address import parse_store
    from holdfast.stores.wire import decode_compare, decode_key_value, decode_operation, read_frame

_KEYS = sorted(RECORDS)
_CREDENTIALS = Credentials(b"0123456789abcdef", "job")


def record(data: bytes) -> None:
    """What stands under a key of the store, and what the coordinator makes of it."""
    if not data:
        return
    key = _KEYS[data[0] % len(_KEYS)]
    value = data[1:]
    read = decode(type(RECORDS[key]), value)
    assert decode(type(read), encode(read)) == read
    coordinator = Coordinator(job_of(JOB), now_s=0.0)
    for event in events_of(KEYS, key, value):
        coordinator.handle(event, 1.0)


def message(data: bytes) -> None:
    """What an agent reads from a worker's socket."""
    decode_message(KINDS, data)


def authorization(data: bytes) -> None:
    """The header of a request to an agent's port."""
    _CREDENTIALS.verify(data.decode("utf-8", "surrogateescape"), "GET", "/alive")


def frame(data: bytes) -> None:
    """What the embedded store reads from a socket."""

    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        said = await read_frame(reader, bytes_max=4096)
        for decode_part in (decode_compare, decode_key_value, decode_operation):
            try:
                decode_part((said or {}).get("args"))
            except ProtocolError:
                continue

    asyncio.run(read())


def address(data: bytes) -> None:
    """What a user gives as --store."""
    text = data.decode("utf-8", "replace")
    assert parse_store(str(parse_store(text))) == parse_store(text)


TARGETS: dict[str, Callable[[bytes], None]] = {f.__name__: f for f in (record, message, authorization, frame, address)}


def main() -> None:
    """Entry point."""
    target = TARGETS[sys.argv.pop(1)]

    def one_input(data: bytes) -> None:
        try:
            target(data)
        except (ProtocolError, UserError):
            return  # refused, as it should be

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
