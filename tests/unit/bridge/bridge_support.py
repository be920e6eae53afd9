"""A host to the bridge, and a double of what stands behind it, both in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

from gcs.bridge.bridge import Bridge
from gcs.bridge.handlers import HANDLERS
from gcs.bridge.services import Services
from gcs.policy.stance import OpenDoor
from gcs.protocol.errors import (
    GcsError,
    NotFoundError,
    SystemNotFoundError,
    WaitTimeoutError,
)
from gcs.protocol.responses import Properties
from tests.support.fakehost import HostConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gcs.bridge.request import Handler
    from gcs.runtime.host import Host

NEGOTIATION = b'{"MinimumVersion":4,"MaximumVersion":4}'


def frame(message_type: int, body: bytes = b"{}", sequence: int = 0) -> bytes:
    return struct.pack("<IIQ", message_type, 16 + len(body), sequence) + body


class FakeWait:
    """What a wait returns; notes that it was answered."""

    def __init__(self, log: list[str], exit_code: int) -> None:
        self.exit_code = exit_code
        self._log = log

    def answered(self) -> None:
        self._log.append("answered")


class FakeRuntime:
    """Stands where gcs.runtime.host.Host does; records calls, waits for events."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.exits: dict[int, asyncio.Future[int]] = {}
        self.forgotten: set[int] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self.properties_to_report = Properties()

    def process(self, pid: int) -> asyncio.Future[int]:
        return self.exits.setdefault(pid, asyncio.get_running_loop().create_future())

    async def wait_for_process(self, container_id: str, pid: int, timeout_ms: int) -> FakeWait:
        self.log.append(f"wait {pid}")
        if pid in self.forgotten:
            raise NotFoundError(f"{container_id} has no process {pid}")
        if timeout_ms == 50 and not self.process(pid).done():
            raise WaitTimeoutError(f"process {pid} still runs")
        return FakeWait(self.log, await asyncio.shield(self.process(pid)))

    async def signal_process(self, container_id: str, pid: int, signal: int) -> None:
        self.log.append(f"signal {pid} {signal} begins")
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.log.append(f"signal {pid} cancelled")
            raise
        self.log.append(f"signal {pid} ends")

    async def shutdown_container(self, container_id: str, *, graceful: bool) -> None:
        raise SystemNotFoundError(f"container {container_id} does not exist")

    async def delete_container_state(self, container_id: str) -> None:
        raise GcsError("x" * 1_000_000)

    async def properties(self, container_id: str, query: object) -> Properties:
        return self.properties_to_report


class Stage:
    """A bridge, and connections to it; holds nothing back unless told to."""

    def __init__(
        self, *, sequential: bool = False, enabled: bool = True, hold_seconds: float = 0.0
    ) -> None:
        self.runtime = FakeRuntime()
        self.handlers: dict[int, Handler] = dict(HANDLERS)
        self.shut_downs = 0
        self.loads = 0
        self.bridge = Bridge(
            self._load, enabled=enabled, sequential=sequential, hold_seconds=hold_seconds
        )
        self.serving: asyncio.Task[str] | None = None
        self._connections: list[HostConnection] = []

    async def connect(self) -> HostConnection:
        """Connect; not negotiated yet."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.serving = asyncio.create_task(self.bridge.serve(theirs))
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        connection = HostConnection(reader, writer)
        self._connections.append(connection)
        return connection

    async def negotiated(self) -> HostConnection:
        """Connect and negotiate."""
        connection = await self.connect()
        assert (await connection.negotiate()).result == 0
        return connection

    async def disconnect(self, connection: HostConnection) -> str:
        """Close from the host's side; return the reason the bridge gives."""
        assert self.serving is not None
        connection.close()
        return await self.serving

    async def close(self) -> None:
        """End everything."""
        await self.bridge.close()
        for connection in self._connections:
            connection.close()
        if self.serving is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self.serving
        await asyncio.sleep(0)

    def _load(self) -> tuple[dict[int, Handler], Services]:
        self.loads += 1
        host = cast("Host", self.runtime)
        return self.handlers, Services(host, OpenDoor(), self._shut_down)

    def _shut_down(self) -> None:
        self.shut_downs += 1


@contextlib.asynccontextmanager
async def stage(**options: Any) -> AsyncIterator[Stage]:
    """A stage that is closed at the end."""
    made = Stage(**options)
    try:
        yield made
    finally:
        await made.close()


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()
