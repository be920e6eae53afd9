"""The header of a virtio-vsock packet (virtio 1.2, 5.10.6)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("<QQIIIHHIII")
HEADER_SIZE: Final = HEADER.size

HOST_CID: Final = 2
TYPE_STREAM: Final = 1

OP_REQUEST: Final = 1
OP_RESPONSE: Final = 2
OP_RST: Final = 3
OP_SHUTDOWN: Final = 4
OP_RW: Final = 5
OP_CREDIT_UPDATE: Final = 6
OP_CREDIT_REQUEST: Final = 7

SHUTDOWN_RECEIVE: Final = 1
SHUTDOWN_SEND: Final = 2
SHUTDOWN_BOTH: Final = SHUTDOWN_RECEIVE | SHUTDOWN_SEND

OPERATION_NAMES: Final = {
    OP_REQUEST: "REQUEST",
    OP_RESPONSE: "RESPONSE",
    OP_RST: "RST",
    OP_SHUTDOWN: "SHUTDOWN",
    OP_RW: "RW",
    OP_CREDIT_UPDATE: "CREDIT_UPDATE",
    OP_CREDIT_REQUEST: "CREDIT_REQUEST",
}


class Header(NamedTuple):
    """The fields of a header, in the order of the wire.

    ``length`` counts the payload in bytes. ``flags`` means something in SHUTDOWN only.
    ``buffer_size`` and ``forwarded`` are the sender's receive buffer in bytes and how many bytes
    have left it since the connection began, modulo 2**32: together they are the credit.
    """

    source_cid: int
    destination_cid: int
    source_port: int
    destination_port: int
    length: int
    type: int
    operation: int
    flags: int
    buffer_size: int
    forwarded: int

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Header:
        """Read a header from the first 44 bytes of ``data``; struct.error when there are fewer."""
        return cls._make(HEADER.unpack_from(data))

    def pack(self) -> bytes:
        """The 44 bytes of the wire."""
        return HEADER.pack(*self)

    def __str__(self) -> str:
        name = OPERATION_NAMES.get(self.operation, f"operation {self.operation}")
        return (
            f"{name} {self.source_cid}:{self.source_port} -> "
            f"{self.destination_cid}:{self.destination_port}, {self.length} bytes"
        )


def reset_reply(packet: Header) -> bytes:
    """The RST that answers a packet of no known connection."""
    return HEADER.pack(
        packet.destination_cid,
        packet.source_cid,
        packet.destination_port,
        packet.source_port,
        0,
        packet.type,
        OP_RST,
        0,
        0,
        0,
    )
