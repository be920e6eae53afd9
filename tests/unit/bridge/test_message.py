"""Every message fits what a host accepts, cut on a boundary of characters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from gcs.bridge.message import MAX_BODY, Message, cut_text, encode_fitting, notification_message
from gcs.protocol.errors import FramingError, GcsError
from gcs.protocol.frame import MAX_TO_HOST
from gcs.protocol.responses import (
    DumpStacksResponse,
    ErrorRecord,
    GetPropertiesResponse,
    Notification,
    Response,
    error_response,
)


@given(text=st.text(), limit=st.integers(60, 200))
def test_cut_text_fits_and_says_that_it_was_cut(text: str, limit: int) -> None:
    cut = cut_text(text * 20, limit)
    assert len(json.dumps(cut, ensure_ascii=False).encode()) <= limit
    if cut != text * 20:
        assert f"(cut, was {len(text) * 20} characters)" in cut
        head = cut[: cut.rindex("…")]
        assert (text * 20).startswith(head)


@pytest.mark.parametrize("character", ["A", "é", "€", "😀", '"', "\\", "\n", "\x01"])
def test_errors_of_any_text_fit(character: str) -> None:
    response = error_response(GcsError(character * 1_000_000))
    assert isinstance(response.error_records, list)
    response.error_records[0].stack_trace = character * 1_000_000
    response.activity_id = "11111111-2222-3333-4444-555555555555"
    body = encode_fitting(response)
    assert len(body) <= MAX_BODY
    document = json.loads(body)
    assert document["ErrorMessage"].startswith(character * 1000)
    assert document["ErrorRecords"][0]["Message"].startswith(character * 1000)
    assert document["ActivityId"] == "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize("character", ["A", "\n", "😀"])
def test_stacks_use_what_room_there_is(character: str) -> None:
    body = encode_fitting(DumpStacksResponse(guest_stacks=character * 200_000))
    assert MAX_BODY - 10 < len(body) <= MAX_BODY
    assert "cut" in json.loads(body)["GuestStacks"]


def test_what_fits_is_not_touched() -> None:
    response = DumpStacksResponse(guest_stacks="x" * 60_000, activity_id="a")
    assert json.loads(encode_fitting(response)) == {
        "Result": 0,
        "ActivityId": "a",
        "GuestStacks": "x" * 60_000,
    }


def test_an_activity_id_that_can_not_be_one_is_left_out() -> None:
    assert json.loads(encode_fitting(Response(activity_id="x" * 70_000))) == {"Result": 0}


def test_what_can_not_be_cut_is_an_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode_fitting(GetPropertiesResponse(properties="x" * 70_000))
    records = [ErrorRecord(message="m" * 1000) for _ in range(100)]
    with pytest.raises(ValueError, match="too long"):
        encode_fitting(Response(error_records=records))


def test_the_longest_message_is_the_longest_a_host_takes() -> None:
    assert len(Message(0x20100201, 1, b"x" * MAX_BODY).frame) == MAX_TO_HOST
    with pytest.raises(FramingError):
        Message(0x20100201, 1, b"x" * (MAX_BODY + 1))


def test_a_notification_is_kept_for_the_next_connection() -> None:
    message = notification_message(Notification(container_id="c", type="ForcedExit"))
    assert message.kept
    assert message.subject == "c"
    assert message.frame[:4] == bytes.fromhex("01011030")
