"""Messages to the host, made to fit: a longer one would cost the connection (spec 1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gcs.protocol.frame import HEADER_SIZE, MAX_TO_HOST, MessageType, encode_frame
from gcs.protocol.responses import DumpStacksResponse, encode

if TYPE_CHECKING:
    from gcs.protocol.responses import Notification, Response

MAX_BODY = MAX_TO_HOST - HEADER_SIZE
#: Bytes of JSON for one text of an error; message, record and stack together stay far below.
_MAX_ERROR_TEXT = 16 * 1024
#: A GUID has 36; whatever is this long is none, and the host could not decode it anyway.
_MAX_ACTIVITY_ID = 256


class Message:
    """One message to the host.

    Args:
        message_type: Its identifier.
        sequence: Number of the request it answers; 0 for a notification.
        body: JSON, at most :data:`MAX_BODY` bytes.
        subject: What it is about, as :attr:`gcs.bridge.request.Request.subject` names it.
        kept: Deliver it on the next connection when this one is lost.
    """

    __slots__ = ("frame", "kept", "subject")

    def __init__(
        self,
        message_type: int,
        sequence: int,
        body: bytes,
        *,
        subject: str = "",
        kept: bool = False,
    ) -> None:
        self.frame = encode_frame(message_type, sequence, body, limit=MAX_TO_HOST)
        self.subject = subject
        self.kept = kept


def notification_message(notification: Notification) -> Message:
    """Return the message of a notification, which outlives its connection (spec 1.10)."""
    body = encode(notification)
    return Message(MessageType.NOTIFICATION, 0, body, subject=notification.container_id, kept=True)


def encode_fitting(response: Response) -> bytes:
    """Return the JSON of a response, its long texts cut where it would be too long.

    Raises:
        ValueError: It can't be encoded, or is too long for another reason.
    """
    if isinstance(response.activity_id, str) and len(response.activity_id) > _MAX_ACTIVITY_ID:
        response.activity_id = msgspec.UNSET
    body = encode(response)
    if len(body) <= MAX_BODY:
        return body
    _cut_error(response)
    if isinstance(response, DumpStacksResponse):
        spare = MAX_BODY - (len(encode(response)) - len(encode_text(response.guest_stacks)))
        response.guest_stacks = cut_text(response.guest_stacks, spare)
    body = encode(response)
    if len(body) > MAX_BODY:
        raise ValueError(f"{type(response).__name__} of {len(body)} bytes is too long")
    return body


def encode_text(text: str) -> bytes:
    """Return a text as JSON."""
    return msgspec.json.encode(text)


def cut_text(text: str, limit: int) -> str:
    """Return a text whose JSON form has at most `limit` bytes, saying so where it was cut."""
    if len(encode_text(text)) <= limit:
        return text
    mark = f"… (cut, was {len(text)} characters)"
    spare = max(limit - len(encode_text(mark)), 0)
    head = text[:spare]
    while (size := len(encode_text(head)) - 2) > spare:
        head = head[: len(head) * spare // size]
    return head + mark


def _cut_error(response: Response) -> None:
    if isinstance(response.error_message, str):
        response.error_message = cut_text(response.error_message, _MAX_ERROR_TEXT)
    records = response.error_records
    if not isinstance(records, list):
        return
    for record in records:
        record.message = cut_text(record.message, _MAX_ERROR_TEXT)
        if isinstance(record.stack_trace, str):
            record.stack_trace = cut_text(record.stack_trace, _MAX_ERROR_TEXT)
