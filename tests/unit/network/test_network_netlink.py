"""What the kernel may answer, from a made-up kernel at the other end of the socket."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from gcs.network.netlink import GET_LINKS, SET_LINK, NetlinkError, RouteSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h, linux/rtnetlink.h
ERROR, DONE, NEW_LINK = 2, 3, 16
DUMP_INTERRUPTED, CAPPED, WITH_ATTRIBUTES = 0x10, 0x100, 0x200
IFLA_IFNAME, NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS = 3, 1, 2


class Kernel:
    """Answers each request with the next of its answers."""

    def __init__(self, *answers: list[tuple[int, int, bytes]]) -> None:
        self.requests: list[bytes] = []
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[list[tuple[int, int, bytes]], ...]) -> None:
        with self._ours:
            for number, answer in enumerate(answers, 1):
                self.requests.append(self._ours.recv(65536))
                for kind, flags, body in answer:
                    header = struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0)
                    self._ours.send(header + body)

    def join(self) -> None:
        self._thread.join()


@pytest.fixture
def route_socket() -> Iterator[RouteSocket]:
    made = RouteSocket()
    yield made
    made.close()


def attach(route_socket: RouteSocket, kernel: Kernel) -> None:
    route_socket._socket.close()
    route_socket._socket = kernel.theirs


def link(name: str) -> bytes:
    text = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(text), IFLA_IFNAME) + text
    return struct.pack("=BxHiII", 0, 1, 1, 0, 0) + attribute + bytes(-len(attribute) % 4)


def names(route_socket: RouteSocket) -> list[str]:
    return [message.get_attr("IFLA_IFNAME") for message in route_socket.dump(GET_LINKS)]


def refusal(number: int, *attributes: tuple[int, bytes]) -> bytes:
    body = struct.pack("=i", -number) + bytes(16)
    for kind, value in attributes:
        body += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    return body


def test_a_list_that_changed_while_it_was_read_is_read_again(route_socket: RouteSocket) -> None:
    done = (DONE, 0, bytes(4))
    kernel = Kernel(
        [(NEW_LINK, 0, link("one")), (NEW_LINK, DUMP_INTERRUPTED, link("two")), done],
        [(NEW_LINK, 0, link("one")), (NEW_LINK, 0, link("three")), done],
    )
    attach(route_socket, kernel)
    assert names(route_socket) == ["one", "three"]
    kernel.join()


def test_a_list_that_changes_all_the_time_is_given_up(route_socket: RouteSocket) -> None:
    again = [(NEW_LINK, DUMP_INTERRUPTED, link("one")), (DONE, DUMP_INTERRUPTED, bytes(4))]
    attach(route_socket, kernel := Kernel(*[again] * 20))
    with pytest.raises(NetlinkError, match="the list changes all the time"):
        names(route_socket)
    kernel.join()


def test_a_list_that_fails_half_way(route_socket: RouteSocket) -> None:
    failed = (DONE, 0, struct.pack("=i", -errno.ENOBUFS))
    attach(route_socket, kernel := Kernel([(NEW_LINK, 0, link("one")), failed]))
    with pytest.raises(NetlinkError, match="No buffer space") as caught:
        names(route_socket)
    assert caught.value.errno == errno.ENOBUFS
    kernel.join()


def test_the_kernels_own_words_count(route_socket: RouteSocket) -> None:
    told = ((NLMSGERR_ATTR_OFFS, bytes(4)), (NLMSGERR_ATTR_MSG, b"no such thing\0"))
    kernel = Kernel(
        [(ERROR, CAPPED | WITH_ATTRIBUTES, refusal(errno.EINVAL, *told))],
        [(ERROR, CAPPED, refusal(errno.EPERM))],
        [(ERROR, CAPPED, refusal(0))],
    )
    attach(route_socket, kernel)
    with pytest.raises(NetlinkError) as caught:
        route_socket.change(SET_LINK, {"index": 5}, [])
    assert (caught.value.errno, caught.value.strerror) == (errno.EINVAL, "no such thing")
    with pytest.raises(NetlinkError, match="Operation not permitted"):
        route_socket.change(SET_LINK, {"index": 5}, [])
    route_socket.change(SET_LINK, {"index": 5}, [])
    kernel.join()
    # The header says a change is asked for, and its outcome.
    assert [struct.unpack_from("=IHHI", request)[1:] for request in kernel.requests] == [
        (16, 5, number) for number in (1, 2, 3)
    ]
