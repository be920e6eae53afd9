"""HRESULTs that cross the bridge (spec 1.9)."""

import enum


class HResult(enum.IntEnum):
    """Windows result codes, as unsigned 32-bit numbers.

    On the wire a result is a signed 32-bit number: see :func:`to_wire` and :func:`from_wire`.
    """

    OK = 0x00000000
    NOT_IMPLEMENTED = 0x80004001
    FAIL = 0x80004005
    INVALID_STATE = 0x80370105
    NOT_FOUND = 0x80070490
    INVALID_ARGUMENT = 0x80070057
    TIMEOUT = 0xC0370109
    UNKNOWN_MESSAGE = 0xC037010B
    UNSUPPORTED_PROTOCOL_VERSION = 0xC037010C
    INVALID_JSON = 0xC037010D
    SYSTEM_NOT_FOUND = 0xC037010E
    SYSTEM_ALREADY_EXISTS = 0xC037010F
    SYSTEM_ALREADY_STOPPED = 0xC0370110


def to_wire(result: int) -> int:
    """Return an unsigned HRESULT as the signed 32-bit number JSON bodies carry."""
    return result - 0x1_0000_0000 if result & 0x8000_0000 else result


def from_wire(result: int) -> int:
    """Return the unsigned HRESULT of a ``Result`` field."""
    return result & 0xFFFF_FFFF


def describe(result: int) -> str:
    """Return an HRESULT as text, with its name where it has one here."""
    try:
        return f"0x{result:08x} ({HResult(result).name})"
    except ValueError:
        return f"0x{result:08x}"
