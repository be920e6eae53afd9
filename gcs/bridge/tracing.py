"""Spans of the bridge, by the names hosts' operators search for (spec appendix C)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gcs.protocol.frame import MessageType, type_name
from gcs.protocol.trace import CLIENT, SERVER, Span

if TYPE_CHECKING:
    from gcs.bridge.request import Request
    from gcs.protocol.responses import Notification
    from gcs.protocol.trace import SpanContext

_PREFIX = "opengcs::bridge::"
_HANDLERS: dict[int, str] = {
    MessageType.CREATE: "createContainerV2",
    MessageType.START: "startContainerV2",
    MessageType.SHUTDOWN_GRACEFUL: "shutdownContainerV2",
    MessageType.SHUTDOWN_FORCED: "killContainerV2",
    MessageType.EXECUTE_PROCESS: "execProcessV2",
    MessageType.WAIT_FOR_PROCESS: "waitOnProcessV2",
    MessageType.SIGNAL_PROCESS: "signalProcessV2",
    MessageType.RESIZE_CONSOLE: "resizeConsoleV2",
    MessageType.GET_PROPERTIES: "getPropertiesV2",
    MessageType.MODIFY_SETTINGS: "modifySettingsV2",
    MessageType.NEGOTIATE_PROTOCOL: "negotiateProtocolV2",
    MessageType.DUMP_STACKS: "dumpStacksV2",
    MessageType.DELETE_CONTAINER_STATE: "deleteContainerStateV2",
}
#: Longest id in a span; real ones have 64 characters.
_MAX_ID = 128


def request_span(
    message_type: int,
    message_id: int,
    *,
    container_id: str,
    activity_id: str | None,
    parent: SpanContext | None,
) -> Span:
    """Return the span of a request, from its arrival to its response."""
    attributes: dict[str, object] = {
        "message-id": message_id,
        "message-type": type_name(message_type),
        "activityID": (activity_id or "")[:_MAX_ID],
        "cid": container_id[:_MAX_ID],
    }
    return Span(_PREFIX + "request", attributes, kind=SERVER, parent=parent)


def handler_span(request: Request) -> Span:
    """Return the span of the handler of a request, which may add to its attributes."""
    name = _HANDLERS.get(request.type)
    request.attributes["cid"] = request.container_id[:_MAX_ID]
    return Span(_PREFIX + name if name else request.name, request.attributes)


def notification_span(notification: Notification) -> Span:
    """Return the span of handing over a notification."""
    attributes: dict[str, object] = {"notification": msgspec.json.encode(notification).decode()}
    return Span(_PREFIX + "PublishNotification", attributes, kind=CLIENT)
