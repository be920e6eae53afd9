"""The vhost-user protocol: messages between QEMU (front-end) and this process (back-end).

Source: docs/interop/vhost-user.rst of QEMU 7.2. All integers are little-endian here, as the host
that runs both is.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Final, NamedTuple

MESSAGE_HEADER: Final = struct.Struct("<III")
VERSION: Final = 1
VERSION_MASK: Final = 3
FLAG_REPLY: Final = 4
FLAG_NEED_REPLY: Final = 8

# Of the messages used here the memory table is the largest: 8 + 8 * 32 bytes.
PAYLOAD_LIMIT: Final = 4096
FD_LIMIT: Final = 8

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
RESET_OWNER: Final = 4
SET_MEM_TABLE: Final = 5
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
SET_VRING_ERR: Final = 14
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
GET_CONFIG: Final = 24
SET_CONFIG: Final = 25
GET_MAX_MEM_SLOTS: Final = 36
ADD_MEM_REG: Final = 37
REM_MEM_REG: Final = 38

FEATURE_INDIRECT_DESCRIPTORS: Final = 1 << 28
FEATURE_EVENT_INDEX: Final = 1 << 29
FEATURE_PROTOCOL_FEATURES: Final = 1 << 30
FEATURE_VERSION_1: Final = 1 << 32

PROTOCOL_REPLY_ACK: Final = 1 << 3
PROTOCOL_CONFIG: Final = 1 << 9
PROTOCOL_CONFIGURE_MEM_SLOTS: Final = 1 << 15

VRING_INDEX_MASK: Final = 0xFF
VRING_NO_FD: Final = 1 << 8

U64: Final = struct.Struct("<Q")
VRING_STATE: Final = struct.Struct("<II")
VRING_ADDRESSES: Final = struct.Struct("<IIQQQQ")
MEMORY_REGION: Final = struct.Struct("<QQQQ")
CONFIG_HEADER: Final = struct.Struct("<III")


class ProtocolError(Exception):
    """QEMU's side said something that is not vhost-user, or that this device cannot do."""


class Message(NamedTuple):
    """One request, with the descriptors that came along; the receiver owns them."""

    request: int
    flags: int
    payload: bytes
    fds: list[int]

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """The payload read by ``layout``. Raises ProtocolError when it is too short."""
        if len(self.payload) < layout.size:
            raise ProtocolError(
                f"request {self.request} has {len(self.payload)} bytes instead of {layout.size}"
            )
        return layout.unpack_from(self.payload)

    def take_fd(self) -> int:
        """The single descriptor of the message, now the caller's. ProtocolError without one."""
        if len(self.fds) != 1:
            raise ProtocolError(f"request {self.request} has {len(self.fds)} descriptors, not 1")
        return self.fds.pop()

    def close_fds(self) -> None:
        """Close the descriptors nobody took."""
        while self.fds:
            os.close(self.fds.pop())


class MessageStream:
    """Cuts the bytes of a non-blocking unix socket into messages.

    Header and payload are read by their exact sizes, one after the other, so that descriptors
    are never attributed to a neighbouring message.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = b""
        self._fds: list[int] = []

    def receive(self) -> Message | None:
        """The next message, None when it is not complete yet.

        Raises EOFError when the other side has closed, ProtocolError for what is no message,
        OSError of the socket.
        """
        header_size = MESSAGE_HEADER.size
        if not self._fill(header_size):
            return None
        request, flags, size = MESSAGE_HEADER.unpack_from(self._buffer)
        if flags & VERSION_MASK != VERSION or size > PAYLOAD_LIMIT:
            raise ProtocolError(f"header: request {request}, flags {flags:#x}, {size} bytes")
        if not self._fill(header_size + size):
            return None
        message = Message(request, flags, self._buffer[header_size:], self._fds)
        self._buffer, self._fds = b"", []
        return message

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(
                    size - len(self._buffer),
                    socket.CMSG_SPACE(4 * FD_LIMIT),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return False
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
                    self._fds += fds
            if not data:
                raise EOFError("the front-end has closed the connection")
            self._buffer += data
        return True

    def reply(self, request: int, payload: bytes) -> None:
        """Answer a request. Replies are few and small: one that finds no room is an OSError."""
        header = MESSAGE_HEADER.pack(request, VERSION | FLAG_REPLY, len(payload))
        self._sock.sendall(header + payload)

    def close(self) -> None:
        """Close descriptors of an unfinished message; the socket is the owner's to close."""
        while self._fds:
            os.close(self._fds.pop())
