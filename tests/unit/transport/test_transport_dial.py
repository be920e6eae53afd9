"""Dialling: what connects, what fails and how, and that no descriptor is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.transport import DialError, NullTransport, UnixTransport, VsockTransport
from gcs.transport.base import dial_within, open_connection
from gcs.transport.vsock import repeat_timed_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def listen(path: Path, backlog: int = 8) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(backlog)
    return listener


async def test_a_port_is_a_socket_behind_the_prefix(tmp_path: Path) -> None:
    with listen(tmp_path / "vm_1073741825") as listener:
        connection = await UnixTransport(str(tmp_path / "vm")).dial(0x40000001)
        accepted, _ = listener.accept()
        with connection, accepted:
            assert not connection.getblocking()
            assert not connection.get_inheritable()
            connection.send(b"out")
            accepted.send(b"in")
            assert accepted.recv(9) == b"out"
            assert connection.recv(9) == b"in"


async def test_a_port_nobody_listens_on_is_named(tmp_path: Path) -> None:
    listen(tmp_path / "vm_7").close()
    with pytest.raises(DialError) as caught:
        await UnixTransport(str(tmp_path / "vm")).dial(7)
    assert isinstance(caught.value, GcsError)
    assert str(caught.value) == (
        f"cannot connect to port 7 at unix socket {tmp_path}/vm_7: Connection refused"
    )
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_path_too_long_for_a_socket_is_a_dial_error() -> None:
    with pytest.raises(DialError, match="path too long"):
        await UnixTransport("/" + "x" * 200).dial(1)


async def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    transport = UnixTransport(str(tmp_path / "vm"))
    with listen(tmp_path / "vm_7", backlog=0) as listener:
        first = await transport.dial(7)
        dial = asyncio.create_task(transport.dial(7))
        done, _ = await asyncio.wait((dial,), timeout=0.05)
        assert not done
        accepted, _ = listener.accept()
        second = await dial
        for connection in (first, second, accepted):
            connection.close()


async def test_a_backlog_that_stays_full_is_given_up(tmp_path: Path) -> None:
    transport = UnixTransport(str(tmp_path / "vm"), seconds=0.05)
    with (
        listen(tmp_path / "vm_7", backlog=0),
        await transport.dial(7),
        pytest.raises(DialError, match=r"vm_7: no answer within 0.05 s"),
    ):
        await transport.dial(7)


async def test_a_connection_in_progress_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = await open_connection(socket.AF_INET, listener.getsockname())
        assert connection.getpeername() == listener.getsockname()
        connection.close()


async def test_a_connection_refused_later_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await open_connection(socket.AF_INET, address)


async def test_a_silent_host_is_given_up_or_can_be_cancelled() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with await open_connection(socket.AF_INET, address):
            with pytest.raises(DialError, match=r"connect to port 5: no answer within 0.05 s"):
                await dial_within(0.05, "port 5", lambda: open_connection(socket.AF_INET, address))
            dial = asyncio.create_task(open_connection(socket.AF_INET, address))
            await asyncio.sleep(0)
            assert dial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dial


async def test_a_vsock_port_that_cannot_be_reached_is_named() -> None:
    # CID 1 is this machine: no answer without vsock_loopback, and with it nobody listens there.
    with pytest.raises(DialError, match="cannot connect to vsock port 4026531841 of CID 1: "):
        await VsockTransport(cid=1, seconds=0.2).dial(0xF0000001)


class Host:
    """Fails the first attempts with the given errors, then connects."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.attempts = 0

    async def connect(self) -> socket.socket:
        self.attempts += 1
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return socket.socket(socket.AF_UNIX)


async def test_what_timed_out_is_repeated() -> None:
    host = Host(*[errno.ETIMEDOUT] * 9)
    (await repeat_timed_out(host.connect, pause=0)).close()
    assert host.attempts == 10


async def test_the_tenth_time_out_is_final() -> None:
    host = Host(*[errno.ETIMEDOUT] * 10)
    with pytest.raises(TimeoutError, match="Connection timed out"):
        await repeat_timed_out(host.connect, pause=0)
    assert host.attempts == 10


@pytest.mark.parametrize("number", [errno.ECONNRESET, errno.ENODEV, errno.ECONNREFUSED])
async def test_other_errors_are_final_at_once(number: int) -> None:
    host = Host(number)
    with pytest.raises(OSError, match=os.strerror(number)):
        await repeat_timed_out(host.connect, pause=0)
    assert host.attempts == 1


async def test_null_reads_eof_and_takes_any_amount() -> None:
    loop = asyncio.get_running_loop()
    connection = await NullTransport().dial(1)
    with connection:
        assert await loop.sock_recv(connection, 1) == b""
        await loop.sock_sendall(connection, bytes(8 << 20))
        assert await loop.sock_recv(connection, 1) == b""
    await _far_end_closed()


async def _far_end_closed() -> None:
    # The loop sees the hang-up of the far end in its next turn, and closes it.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
