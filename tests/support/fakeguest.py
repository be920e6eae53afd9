"""A guest for the host library to talk to: it dials the ports, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gcs.protocol.frame import (
    HEADER_SIZE,
    MAX_TO_GUEST,
    MessageType,
    decode_header,
    encode_frame,
    response_type,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Handler = Callable[["Call"], Awaitable[dict[str, Any] | None]]

_NO_LIMIT = 1 << 40
CAPABILITIES = {
    "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}],
    "RuntimeOsType": "Linux",
    "GuestDefinedCapabilities": {
        "NamespaceAddRequestSupported": True,
        "SignalProcessSupported": True,
        "DumpStacksSupported": True,
        "DeleteContainerStateSupported": True,
    },
}


class Call(NamedTuple):
    """A request of the host.

    Attributes:
        type: Message identifier.
        id: Sequence number.
        body: Decoded JSON.
        text: The body as it came.
    """

    type: int
    id: int
    body: dict[str, Any]
    text: str


class FakeGuest:
    """The guest's end of a bridge.

    Args:
        handlers: Message identifier → what to answer. ``None`` leaves the request unanswered;
            a missing handler answers success.
    """

    def __init__(self, handlers: dict[int, Handler] | None = None) -> None:
        self.handlers = handlers or {}
        self.calls: list[Call] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._end = asyncio.Event()

    async def dial(self, path: Path) -> None:
        """Connect to the bridge port of the host, and serve it."""
        reader, self._writer = await asyncio.open_unix_connection(os.fspath(path))
        self._spawn(self._serve(reader))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection that is there already."""
        self._writer = writer
        self._spawn(self._serve(reader))

    @property
    def writer(self) -> asyncio.StreamWriter:
        """The connection, to write what no guest should."""
        assert self._writer is not None
        return self._writer

    def send(self, message_type: int, sequence: int, body: dict[str, Any] | bytes) -> None:
        """Send any message."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.writer.write(encode_frame(message_type, sequence, data, limit=_NO_LIMIT))

    def notify_exit(self, container_id: str, kind: str = "UnexpectedExit") -> None:
        """Report the end of a container."""
        body = {"ContainerId": container_id, "Type": kind, "Operation": "None", "Result": 0}
        self.send(MessageType.NOTIFICATION, 0, body)

    async def ended(self) -> None:
        """Wait until the host has closed its side."""
        await self._end.wait()

    async def close(self) -> None:
        """Close the connection and forget what is not answered."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            self._writer.transport.abort()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                header = decode_header(await reader.readexactly(HEADER_SIZE), limit=MAX_TO_GUEST)
                text = (await reader.readexactly(header.body_size)).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                self._end.set()
                return
            call = Call(header.type, header.id, json.loads(text), text)
            self.calls.append(call)
            self._spawn(self._answer(call))

    async def _answer(self, call: Call) -> None:
        handler = self.handlers.get(call.type, _succeed)
        answer = await handler(call)
        if answer is not None:
            body = {"Result": 0, "ActivityId": call.body["ActivityId"], **answer}
            self.send(response_type(call.type), call.id, body)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _succeed(call: Call) -> dict[str, Any]:
    if call.type == MessageType.NEGOTIATE_PROTOCOL:
        return {"Version": 4, "Capabilities": CAPABILITIES}
    return {}
