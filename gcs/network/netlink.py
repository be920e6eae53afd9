"""Requests to rtnetlink, with pyroute2's messages over a socket of ours.  For the worker.

Of pyroute2 the encoders and decoders of four messages are used.  Its own sockets bring an event
loop and a hundred and sixty more modules with them, three times the time to import: most of what a
worker takes to do its work.  For the same reason the package is entered by the side door, as its
``__init__`` imports all of it.
"""

from __future__ import annotations

import importlib.machinery
import os
import socket
import struct
import sys
import types
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if "pyroute2" not in sys.modules:
    _spec = importlib.machinery.PathFinder.find_spec("pyroute2")
    _package = types.ModuleType("pyroute2")
    # In the image there is no such directory: there modules are found by name alone.
    _package.__path__ = list(_spec.submodule_search_locations or ()) if _spec else []
    sys.modules["pyroute2"] = _package

from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# linux/netlink.h
_NLM_F_REQUEST: Final = 0x01
_NLM_F_ACK: Final = 0x04
_NLM_F_DUMP_INTR: Final = 0x10
_NLM_F_DUMP: Final = 0x300
_NLM_F_CREATE_EXCLUSIVELY: Final = 0x600
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLMSGERR_ATTR_MSG: Final = 1
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")
# An error has the header of the request after its number.
_ERROR_BYTES: Final = _ERROR.size + _HEADER.size
# The kernel makes the parts of a dump as large as 32 KiB.
_RECEIVE_BYTES: Final = 1 << 17
_DUMP_ATTEMPTS: Final = 20


class Verb(NamedTuple):
    """A kind of request (linux/rtnetlink.h).

    Attributes:
        number: Its RTM_* number.
        message: The class of pyroute2 that encodes it, and decodes the answers.
        flags: What it needs beside the usual.
    """

    number: int
    message: type[Any]
    flags: int = 0


SET_LINK: Final = Verb(16, ifinfmsg)
GET_LINKS: Final = Verb(18, ifinfmsg, _NLM_F_DUMP)
ADD_ADDRESS: Final = Verb(20, ifaddrmsg, _NLM_F_CREATE_EXCLUSIVELY)
REMOVE_ADDRESS: Final = Verb(21, ifaddrmsg)
GET_ADDRESSES: Final = Verb(22, ifaddrmsg, _NLM_F_DUMP)
ADD_ROUTE: Final = Verb(24, rtmsg, _NLM_F_CREATE_EXCLUSIVELY)
ADD_RULE: Final = Verb(32, fibmsg, _NLM_F_CREATE_EXCLUSIVELY)
REMOVE_RULE: Final = Verb(33, fibmsg)


class NetlinkError(OSError):
    """The kernel refuses a request; ``strerror`` has its explanation, if it gave one."""


class RouteSocket:
    """A socket of the network namespace that the calling thread is in when this is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._socket.connect((0, 0))  # the kernel
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def change(
        self, verb: Verb, fields: dict[str, int], attributes: Iterable[tuple[str, Any]]
    ) -> None:
        """Ask for a change.

        Args:
            verb: Which.
            fields: The fixed part of the message, by the names that pyroute2 gives them.
            attributes: Names and values of the attributes, likewise.

        Raises:
            NetlinkError: It is refused.
        """
        self._send(verb, verb.flags | _NLM_F_ACK, fields, attributes)
        for _ in self._answers():
            pass

    def dump(self, verb: Verb, fields: dict[str, int] | None = None) -> list[Any]:
        """Return all messages of a kind.

        Raises:
            NetlinkError: It is refused, or things change faster than they can be listed.
        """
        for _ in range(_DUMP_ATTEMPTS):
            self._send(verb, verb.flags, fields or {}, ())
            answers = list(self._answers())
            if not any(flags & _NLM_F_DUMP_INTR for flags, _ in answers):
                return [_decoded(verb, data) for _, data in answers]
        raise NetlinkError(0, "the list changes all the time")

    def _send(
        self,
        verb: Verb,
        flags: int,
        fields: dict[str, int],
        attributes: Iterable[tuple[str, Any]],
    ) -> None:
        self._sequence += 1
        message = verb.message()
        message["header"]["type"] = verb.number
        message["header"]["flags"] = flags | _NLM_F_REQUEST
        message["header"]["sequence_number"] = self._sequence
        for name, value in fields.items():
            message[name] = value
        message["attrs"] = list(attributes)
        message.encode()
        self._socket.send(message.data)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """Yield flags and bytes of each message up to the last one of the answer."""
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
                message = data[at : at + length]
                at += length + 3 & ~3
                if sequence != self._sequence:
                    continue  # the rest of a list that was not read to its end
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _raise_if_refused(message, flags)
                    return
                yield flags, message


def _decoded(verb: Verb, data: bytes) -> Any:
    message = verb.message(data)
    message.decode()
    return message


def _raise_if_refused(message: bytes, flags: int) -> None:
    (number,) = _ERROR.unpack_from(message, _HEADER.size)
    if number:
        text = os.strerror(-number)
        if flags & _NLM_F_ACK_TLVS:
            text = _explanation(message[_HEADER.size + _ERROR_BYTES :]) or text
        raise NetlinkError(-number, text)


def _explanation(attributes: bytes) -> str:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _NLMSGERR_ATTR_MSG:
            return attributes[at + _ATTRIBUTE.size : at + length].rstrip(b"\0").decode()
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
    return ""
