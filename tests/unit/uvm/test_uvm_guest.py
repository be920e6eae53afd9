"""How a guest connects at boot, and the streams of its processes, over real unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import RemoteError
from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import HResult
from tests.support.fakeguest import Call, FakeGuest
from uvm.entropy import ENTROPY_BYTES, ENTROPY_PORT
from uvm.errors import ListenError, UvmError
from uvm.guest import LOG_PORT, Guest
from uvm.listen import BRIDGE_PORT, UnixHostPorts
from uvm.timings import Timings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uvm.logs import LogEntry


class World:
    """A host that waits for a guest, and the guest's side of it."""

    def __init__(self, directory: Path) -> None:
        self.uds = directory / "vsock"
        self.entries: list[LogEntry] = []
        self.timings = Timings()
        self.host = Guest(UnixHostPorts(self.uds), on_log=self.entries.append, timings=self.timings)
        self.guest = FakeGuest()
        self.writers: list[asyncio.StreamWriter] = []

    def port(self, number: int) -> Path:
        return self.uds.with_name(f"{self.uds.name}_{number}")

    async def dial(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.port(number))
        self.writers.append(writer)
        return reader, writer

    async def connect(self) -> None:
        """Boot the guest: entropy, log, bridge."""
        self.host.listen()
        accept = asyncio.create_task(self.host.accept())
        await self.dial(ENTROPY_PORT)
        await self.dial(LOG_PORT)
        await self.guest.dial(self.port(BRIDGE_PORT))
        await accept

    async def close(self) -> None:
        await self.host.close()
        await self.guest.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()
    assert os.listdir(tmp_path) == []


async def test_a_guest_gets_its_entropy_and_nothing_more(world: World) -> None:
    world.host.listen()
    accept = asyncio.create_task(world.host.accept())
    reader, _ = await world.dial(ENTROPY_PORT)
    assert len(await reader.read()) == ENTROPY_BYTES == 512
    with pytest.raises(OSError, match=r"No such file|refused"):
        await world.dial(ENTROPY_PORT)
    accept.cancel()


@pytest.mark.parametrize("missing", [ENTROPY_PORT, LOG_PORT])
async def test_the_bridge_is_taken_only_after_entropy_and_log(world: World, missing: int) -> None:
    world.host.listen()
    accept = asyncio.create_task(world.host.accept())
    await world.guest.dial(world.port(BRIDGE_PORT))
    (other,) = {ENTROPY_PORT, LOG_PORT} - {missing}
    reader, _ = await world.dial(other)
    if other == ENTROPY_PORT:
        await reader.read()
    await asyncio.sleep(0)
    assert not world.guest.calls
    await world.dial(missing)
    await accept
    assert [call.type for call in world.guest.calls] == [MessageType.NEGOTIATE_PROTOCOL]
    assert {"log connected", "bridge connected", "negotiated"} <= world.timings.as_dict().keys()


async def test_the_agents_log_arrives_entry_by_entry(world: World) -> None:
    await world.connect()
    log = world.writers[1]
    log.write(b'{"level":"info","msg":"one","n":1}{"level":"warn",')
    log.write(b'"msg":"two"}\n')
    log.close()
    await world.host.drain_log(10)
    assert [(entry.level, entry.message) for entry in world.entries] == [
        ("info", "one"),
        ("warning", "two"),
    ]


async def test_two_hosts_can_not_have_the_same_ports(world: World) -> None:
    world.host.listen()
    with pytest.raises(ListenError, match="in use"):
        Guest(UnixHostPorts(world.uds)).listen()


def echo(world: World) -> Any:
    """A guest process: everything from stdin goes to stdout, its end to stderr."""

    async def execute(call: Call) -> dict[str, Any]:
        ports = call.body["Settings"]["VsockStdioRelaySettings"]
        streams = [await world.dial(port) for port in ports.values()]

        async def copy() -> None:
            (reader, _), (_, out), (_, err) = streams
            while data := await reader.read(65536):
                out.write(data)
                await out.drain()
            err.write(b"end of input")
            out.write_eof()
            err.write_eof()

        world.copying = asyncio.create_task(copy())  # type: ignore[attr-defined]
        return {"ProcessId": 5}

    return execute


async def test_a_process_echoes_stdin_until_it_is_half_closed(world: World) -> None:
    await world.connect()
    world.guest.handlers[MessageType.EXECUTE_PROCESS] = echo(world)

    async def wait(_: Call) -> dict[str, Any]:
        return {"ExitCode": 9}

    world.guest.handlers[MessageType.WAIT_FOR_PROCESS] = wait
    process = await world.host.execute_in_vm(["cat"], stdin=True)
    data = os.urandom(3_000_000)
    completed = await process.communicate(data)
    assert completed.stdout == data
    assert (completed.exit_code, completed.stderr) == (9, b"end of input")


async def test_each_stream_is_accepted_once(world: World) -> None:
    await world.connect()
    seen: list[int] = []

    async def execute(call: Call) -> dict[str, Any]:
        seen.extend(call.body["Settings"]["VsockStdioRelaySettings"].values())
        for port in seen:
            await world.dial(port)
        return {"ProcessId": 5}

    world.guest.handlers[MessageType.EXECUTE_PROCESS] = execute
    process = await world.host.execute_in_vm(["true"])
    assert len(seen) == 2
    for port in seen:
        with pytest.raises(OSError, match="No such file"):
            await world.dial(port)
    process.close()


async def test_a_refused_process_leaves_no_listener(world: World) -> None:
    await world.connect()

    async def refuse(_: Call) -> dict[str, Any]:
        return {"Result": HResult.FAIL - (1 << 32), "ErrorMessage": "no such program"}

    world.guest.handlers[MessageType.EXECUTE_PROCESS] = refuse
    with pytest.raises(RemoteError, match="no such program"):
        await world.host.execute_in_vm(["nothing"], stdin=True)
    assert list(world.uds.parent.iterdir()) == []


async def test_a_stream_that_is_missing_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvm.stdio._LATE_CONNECTION_SECONDS", 0.01)
    await world.connect()

    async def execute(call: Call) -> dict[str, Any]:
        await world.dial(call.body["Settings"]["VsockStdioRelaySettings"]["StdOut"])
        return {"ProcessId": 5}

    world.guest.handlers[MessageType.EXECUTE_PROCESS] = execute
    with pytest.raises(UvmError, match="without its stderr"):
        await world.host.execute_in_vm(["true"])


async def test_connecting_to_a_port_in_the_guest(tmp_path: Path) -> None:
    async def device(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if line == b"CONNECT 77\n":
            writer.write(b"OK 1025\nhello")
        writer.close()

    server = await asyncio.start_unix_server(device, tmp_path / "vsock")
    ports = UnixHostPorts(tmp_path / "vsock")
    connected = await ports.connect(77)
    loop = asyncio.get_running_loop()
    assert await loop.sock_recv(connected, 100) == b"hello"
    connected.close()
    with pytest.raises(ConnectionRefusedError, match="port 78"):
        await ports.connect(78)
    server.close()
    with contextlib.suppress(asyncio.CancelledError):
        await server.wait_closed()


async def test_a_connection_that_comes_as_the_wait_is_called_off_stays_in_the_queue(
    tmp_path: Path,
) -> None:
    listener = UnixHostPorts(tmp_path / "vsock").listen(5)
    waiting = asyncio.create_task(listener.accept())
    await asyncio.sleep(0)
    calls_off, signal = socket.socketpair()
    asyncio.get_running_loop().add_reader(calls_off, waiting.cancel)
    signal.send(b"x")  # first: the loop handles what is ready in this order
    with socket.socket(socket.AF_UNIX) as dialling:
        dialling.connect(os.fspath(tmp_path / "vsock_5"))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        asyncio.get_running_loop().remove_reader(calls_off)
        (await listener.accept()).close()
    for end in (calls_off, signal, listener):
        end.close()
