"""Requests as the reference's host library writes them (spec 1.2, 1.5)."""

from typing import Any, Final

import msgspec

from gcs.protocol.message import MessageBase

#: The host never fills the field, so this is what every request of a real host carries.
ZERO_GUID: Final = "00000000-0000-0000-0000-000000000000"


def encode_request(message: MessageBase) -> bytes:
    """Return the body of a request: base keys always present, a newline at the end."""
    fields: dict[str, Any] = msgspec.to_builtins(message)
    if not fields.get("SupportedVersions"):
        fields.pop("SupportedVersions", None)
    base = {
        "ContainerId": message.container_id,
        "ActivityId": ZERO_GUID if message.activity_id is None else message.activity_id,
    }
    return msgspec.json.encode(base | fields) + b"\n"


def encode_text(document: Any) -> str:
    """Return a document as the JSON text that some fields carry."""
    return msgspec.json.encode(document).decode()
