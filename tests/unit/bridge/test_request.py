"""What all requests have in common is read before any handler runs."""

from __future__ import annotations

import gc
import weakref

import pytest

from gcs.bridge.request import Request
from gcs.protocol.errors import InvalidJsonError
from gcs.protocol.frame import Header, MessageType
from gcs.protocol.message import MessageBase
from gcs.protocol.requests import ContainerWaitForProcess


def request(body: bytes | bytearray) -> Request:
    return Request(Header(MessageType.WAIT_FOR_PROCESS, 16 + len(body), 7), body)


@pytest.mark.parametrize(
    ("body", "container_id", "activity_id"),
    [
        (b'{"ContainerId":"c","ActivityId":"a"}', "c", "a"),
        (b'{"containerid":"c","activityID":"a"}', "c", "a"),
        (b'{"ActivityId":""}', "", None),
        (b'{"ActivityId":null}', "", None),
        (b"{}", "", None),
        # Wrong somewhere: the activity id is echoed all the same, as far as it can be read.
        (b'{"ContainerId":5,"ActivityId":"a"}', "", "a"),
        (b'{"ContainerId":5,"ActivityId":6}', "", None),
        (b'{"ContainerId":"c","ActivityId":"a"', "", None),
        (b"[]", "", None),
        (b"", "", None),
    ],
)
def test_the_base_of_a_request(body: bytes, container_id: str, activity_id: str | None) -> None:
    made = request(body)
    assert (made.container_id, made.activity_id) == (container_id, activity_id)
    assert (made.type, made.id, made.name) == (0x10100601, 7, "Request/WaitForProcess")


def test_the_body_as_a_message() -> None:
    assert request(b'{"ProcessId":3}').read(ContainerWaitForProcess).process_id == 3
    assert request(bytearray(b'{"ProcessId":3}')).read(ContainerWaitForProcess).process_id == 3


def test_an_error_is_raised_when_the_body_is_read_and_not_before() -> None:
    made = request(b"{nope")
    for _ in range(2):
        with pytest.raises(InvalidJsonError, match="body of Request/WaitForProcess"):
            made.read(MessageBase)


def test_a_malformed_body_is_not_kept_in_memory() -> None:
    class Body(bytearray):
        """A body that can be watched."""

    body = Body(b'{"ContainerId":5')
    watched = weakref.ref(body)
    gc.disable()
    try:
        made = request(body)
        del body
        assert watched() is None
    finally:
        gc.enable()
    with pytest.raises(InvalidJsonError):
        made.read(MessageBase)
