"""What etcd's errors mean to us."""

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from holdfast.agent.following import is_refusal
from holdfast.errors import RequestError, StoreError
from holdfast.stores.etcd.failures import translate


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"),
        (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)"),
    ],
)
def test_a_request_that_etcd_can_never_take_is_an_error_of_the_store_that_nobody_repeats(
    code: grpc.StatusCode, details: str
) -> None:
    error = translate(AioRpcError(code, Metadata(), Metadata(), details), "a write", "host:2379")
    assert isinstance(error, RequestError)
    assert isinstance(error, StoreError)
    assert isinstance(error, ValueError)
    assert details in str(error)
    assert not is_refusal(error)
