"""One connection: what is written when, as the packets of a socket that keeps them apart show."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.bridge.connection import Connection
from gcs.bridge.message import Message
from gcs.protocol.frame import MessageType, encode_frame, response_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.protocol.frame import Header

START = MessageType.START
ANSWER = response_type(START)


def frames(*numbers: int, kind: int = START) -> bytes:
    return b"".join(encode_frame(kind, number, b"{}", limit=1 << 16) for number in numbers)


class Wire:
    """A connection, whose requests are answered in tasks, and the host's end of it."""

    def __init__(self, kind: socket.SocketKind, *, at_once: bool = False) -> None:
        self.host, ours = socket.socketpair(socket.AF_UNIX, kind)
        self.host.settimeout(10)
        ours.setblocking(False)
        self.at_once = at_once
        self.connection = Connection.from_socket(ours, self._frame)

    def _frame(self, header: Header, _: object) -> None:
        answer = Message(ANSWER, header.id, b"{}")
        if self.at_once:
            self.connection.send(answer)
        else:
            asyncio.get_running_loop().call_soon(self.connection.send, answer)

    async def receive(self) -> bytes:
        return await asyncio.to_thread(self.host.recv, 1 << 20)

    async def receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await self.receive()
        return data


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    made: list[Wire] = []
    yield made
    for wire in made:
        wire.connection.close("the end")
        wire.host.close()


@pytest.mark.parametrize("at_once", [True, False])
async def test_answers_to_requests_that_came_together_go_together(
    wires: list[Wire], at_once: bool
) -> None:
    wires.append(wire := Wire(socket.SOCK_SEQPACKET, at_once=at_once))
    wire.host.send(frames(1, 2, 3))
    assert await wire.receive() == frames(1, 2, 3, kind=ANSWER)
    # One that comes alone waits for nobody, nor does what comes later.
    wire.host.send(frames(4))
    assert await wire.receive() == frames(4, kind=ANSWER)
    wire.connection.send(Message(ANSWER, 5, b"{}"))
    assert await wire.receive() == frames(5, kind=ANSWER)


async def test_more_than_fits_is_written_bit_by_bit_and_in_order(wires: list[Wire]) -> None:
    wires.append(wire := Wire(socket.SOCK_STREAM))
    wire.host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    messages = [Message(ANSWER, number, b"x" * (number % 977)) for number in range(3000)]
    for message in messages:
        wire.connection.send(message)
    assert wire.connection.unsent()
    expected = b"".join(bytes(message.frame) for message in messages)
    assert await wire.receive_exactly(len(expected)) == expected
    assert wire.connection.unsent() == []


async def test_what_was_answered_before_the_stream_broke_is_sent(wires: list[Wire]) -> None:
    wires.append(wire := Wire(socket.SOCK_SEQPACKET, at_once=True))
    wire.host.send(frames(1, 2) + b"\xff" * 16)
    assert await wire.receive() == frames(1, 2, kind=ANSWER)
    assert await wire.receive() == b""
    assert await wire.connection.wait_closed() == "malformed frame"
