"""Processes that have the host's sockets themselves as streams, dialled over unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.stdio import ChildDescriptors, PipeRelay, StdioPorts, connect
from gcs.transport import DialError, NullTransport, UnixTransport
from tests.support.stdio import open_descriptors, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


class Listeners:
    """A host that accepts once for each port, as the real one (spec 1.11)."""

    def __init__(self, prefix: Path, *ports: int) -> None:
        self._listeners = {}
        for port in ports:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{prefix}_{port}")
            listener.listen(1)
            self._listeners[port] = listener

    def accept(self, port: int) -> socket.socket:
        with self._listeners.pop(port) as listener:
            connection, _ = listener.accept()
        connection.setblocking(False)
        return connection


async def read_all(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    with connection:
        data = b""
        while part := await loop.sock_recv(connection, 1 << 16):
            data += part
    return data


async def far_ends_closed() -> None:
    """Give the loop the turns it needs to read the rest of null connections, up to EOF."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_process_talks_to_the_host_directly(tmp_path: Path) -> None:
    listeners = Listeners(tmp_path / "vm", 11, 12, 13)
    sockets = await connect(UnixTransport(str(tmp_path / "vm")), StdioPorts(11, 12, 13))
    stdin, stdout, stderr = (listeners.accept(port) for port in (11, 12, 13))
    child = ChildDescriptors.of_sockets(sockets)
    process = shell("cat; echo error >&2; exit 3", child)
    sockets.close()
    sent = os.urandom(3 << 20)

    async def send() -> None:
        with stdin:
            await asyncio.get_running_loop().sock_sendall(stdin, sent)

    received, _ = await asyncio.gather(read_all(stdout), send())
    assert received == sent
    assert await read_all(stderr) == b"error\n"
    assert await process.exit_code() == 3


async def test_a_port_nobody_listens_on_closes_the_other_connections(tmp_path: Path) -> None:
    listeners = Listeners(tmp_path / "vm", 11)
    with pytest.raises(DialError, match=r"port 12 at unix socket .*vm_12: No such file"):
        await connect(UnixTransport(str(tmp_path / "vm")), StdioPorts(11, 12, 13))
    assert await read_all(listeners.accept(11)) == b""


async def test_forbidden_streams_of_a_direct_process_lead_nowhere() -> None:
    sockets = await connect(NullTransport(), StdioPorts(11, 12, 13))
    child = ChildDescriptors.of_sockets(sockets)
    process = shell("cat; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", child)
    sockets.close()
    assert await process.exit_code() == 0
    await far_ends_closed()


async def test_forbidden_streams_of_a_relayed_process_lead_nowhere() -> None:
    ports = StdioPorts(11, 12, 13)
    relay = PipeRelay.create("process", ports)
    process = shell("cat; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", relay.child)
    relay.attach(await connect(NullTransport(), ports))
    assert await process.exit_code() == 0
    await relay.finish()
    await far_ends_closed()
