"""Cutting the vhost-user stream into messages, with their descriptors."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import pytest

from uvm.vsock import vhost_user as vu

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pair:
    def __init__(self) -> None:
        self.front_end, self.back_end = socket.socketpair()
        self.stream = vu.MessageStream(self.back_end)

    def close(self) -> None:
        self.stream.close()
        self.front_end.close()
        self.back_end.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_message_byte_by_byte(pair: Pair) -> None:
    data = vu.MESSAGE_HEADER.pack(vu.SET_FEATURES, vu.VERSION, 8) + vu.U64.pack(5)
    for index in range(len(data)):
        assert pair.stream.receive() is None
        pair.front_end.send(data[index : index + 1])
    message = pair.stream.receive()
    assert message is not None
    assert (message.request, message.unpack(vu.U64)) == (vu.SET_FEATURES, (5,))


def test_descriptors_stay_with_their_message(pair: Pair) -> None:
    first, second = os.eventfd(1), os.eventfd(2)
    for fd in (first, second):
        pair.front_end.sendmsg(
            [vu.MESSAGE_HEADER.pack(vu.SET_VRING_KICK, vu.VERSION, 8) + vu.U64.pack(0)],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))],
        )
        os.close(fd)
    for value in (1, 2):
        message = pair.stream.receive()
        assert message is not None
        fd = message.take_fd()
        assert os.eventfd_read(fd) == value
        assert not os.get_inheritable(fd)
        os.close(fd)
        with pytest.raises(vu.ProtocolError, match="0 descriptors"):
            message.take_fd()


def test_end_of_file(pair: Pair) -> None:
    pair.front_end.close()
    with pytest.raises(EOFError):
        pair.stream.receive()


@pytest.mark.parametrize("header", [(1, 0, 0), (1, 2, 0), (1, 1, vu.PAYLOAD_LIMIT + 1)])
def test_bad_header(pair: Pair, header: tuple[int, int, int]) -> None:
    pair.front_end.send(vu.MESSAGE_HEADER.pack(*header))
    with pytest.raises(vu.ProtocolError):
        pair.stream.receive()


def test_short_payload(pair: Pair) -> None:
    pair.front_end.send(vu.MESSAGE_HEADER.pack(vu.SET_VRING_NUM, vu.VERSION, 4) + bytes(4))
    message = pair.stream.receive()
    assert message is not None
    with pytest.raises(vu.ProtocolError, match="4 bytes instead of 8"):
        message.unpack(vu.VRING_STATE)


def test_reply(pair: Pair) -> None:
    pair.stream.reply(vu.GET_FEATURES, vu.U64.pack(7))
    data = pair.front_end.recv(100)
    assert vu.MESSAGE_HEADER.unpack(data[:12]) == (vu.GET_FEATURES, 5, 8)
    assert vu.U64.unpack(data[12:]) == (7,)
