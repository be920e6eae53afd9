"""One function for each request of the host, and the table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.bridge.handlers import agent, container, process
from gcs.protocol.frame import MessageType

if TYPE_CHECKING:
    from gcs.bridge.request import Handler

#: Message identifier → what carries it out, once a version is negotiated.
HANDLERS: dict[int, Handler] = {
    MessageType.CREATE: container.create,
    MessageType.START: container.start,
    MessageType.SHUTDOWN_GRACEFUL: container.shutdown_graceful,
    MessageType.SHUTDOWN_FORCED: container.shutdown_forced,
    MessageType.EXECUTE_PROCESS: process.execute,
    MessageType.WAIT_FOR_PROCESS: process.wait,
    MessageType.SIGNAL_PROCESS: process.signal,
    MessageType.RESIZE_CONSOLE: process.resize_console,
    MessageType.GET_PROPERTIES: container.get_properties,
    MessageType.MODIFY_SETTINGS: container.modify_settings,
    MessageType.DUMP_STACKS: agent.dump,
    MessageType.DELETE_CONTAINER_STATE: container.delete_state,
}
