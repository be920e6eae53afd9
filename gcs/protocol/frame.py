"""Frames: a 16-byte little-endian header, then a body of JSON (spec 1.2, 1.3)."""

import enum
import struct
from typing import Final

from gcs.protocol.errors import FramingError

HEADER_SIZE: Final = 16
#: The host drops the connection, and with it the pod, on a longer message (spec 1.2).
MAX_TO_HOST: Final = 0x10000
#: The host sends requests of any size; a longer one is taken for a broken stream.
MAX_TO_GUEST: Final = 64 * 1024 * 1024

_HEADER = struct.Struct("<IIQ")
_KIND_MASK: Final = 0xF000_0000
_RESPONSE: Final = 0x2000_0000


class MessageType(enum.IntEnum):
    """Identifiers of the requests, and of the one notification (spec 1.3)."""

    CREATE = 0x10100101
    START = 0x10100201
    SHUTDOWN_GRACEFUL = 0x10100301
    SHUTDOWN_FORCED = 0x10100401
    EXECUTE_PROCESS = 0x10100501
    WAIT_FOR_PROCESS = 0x10100601
    SIGNAL_PROCESS = 0x10100701
    RESIZE_CONSOLE = 0x10100801
    GET_PROPERTIES = 0x10100901
    MODIFY_SETTINGS = 0x10100A01
    NEGOTIATE_PROTOCOL = 0x10100B01
    DUMP_STACKS = 0x10100C01
    DELETE_CONTAINER_STATE = 0x10100D01
    UPDATE_CONTAINER = 0x10100E01
    NOTIFICATION = 0x30100101


class Header:
    """The header of a frame.

    Attributes:
        type: Message identifier, 32 bits.
        size: Length of the whole frame in bytes, this header included.
        id: Sequence number, 64 bits; a response repeats its request's, a notification has 0.
    """

    __slots__ = ("id", "size", "type")

    def __init__(self, type: int, size: int, id: int) -> None:  # noqa: A002
        self.type = type
        self.size = size
        self.id = id

    def __repr__(self) -> str:
        return f"Header({type_name(self.type)}, size={self.size}, id={self.id})"

    @property
    def body_size(self) -> int:
        """Length of the body in bytes."""
        return self.size - HEADER_SIZE


def decode_header(data: bytes | bytearray | memoryview, *, limit: int) -> Header:
    """Decode the first 16 bytes of a frame.

    Args:
        data: At least ``HEADER_SIZE`` bytes.
        limit: Longest frame to accept, in bytes, header included.

    Raises:
        FramingError: The size is below 16 or above the limit.
    """
    message_type, size, sequence = _HEADER.unpack_from(data)
    if not HEADER_SIZE <= size <= limit:
        raise FramingError(
            f"frame of type {type_name(message_type)} claims {size} bytes; "
            f"allowed are {HEADER_SIZE} to {limit}"
        )
    return Header(message_type, size, sequence)


def encode_frame(message_type: int, sequence: int, body: bytes, *, limit: int) -> bytes:
    """Return a whole frame.

    Raises:
        FramingError: The frame would be longer than the limit.
    """
    size = HEADER_SIZE + len(body)
    if size > limit:
        raise FramingError(
            f"{type_name(message_type)} of {size} bytes exceeds the limit of {limit} bytes"
        )
    return _HEADER.pack(message_type, size, sequence) + body


def response_type(request_type: int) -> int:
    """Return the type of the answer to a request of any type, known or not (spec 1.3)."""
    return (request_type & ~_KIND_MASK) | _RESPONSE


def is_response(message_type: int) -> bool:
    """Tell whether a type is that of an answer."""
    return message_type & _KIND_MASK == _RESPONSE


def type_name(message_type: int) -> str:
    """Return a readable name of a message type, such as ``Request/Create``."""
    name = _names.get(message_type)
    if name is None:
        name = _make_name(message_type)
        if not name.startswith("0x"):  # of others there are too many to remember
            _names[message_type] = name
    return name


_names: dict[int, str] = {}


def _make_name(message_type: int) -> str:
    kind = {0x1000_0000: "Request", 0x2000_0000: "Response"}.get(message_type & _KIND_MASK)
    if message_type == MessageType.NOTIFICATION:
        return "Notification"
    try:
        name = MessageType((message_type & ~_KIND_MASK) | 0x1000_0000).name
    except ValueError:
        return f"0x{message_type:08x}"
    if kind is None:
        return f"0x{message_type:08x}"
    return f"{kind}/{name.title().replace('_', '')}"
