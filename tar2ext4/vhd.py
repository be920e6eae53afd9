"""The footer that makes a raw disk image a VHD of fixed size.

See Microsoft's "Virtual Hard Disk Image Format Specification", "Hard Disk Footer Format"; what is
in which field is as in the reference.
"""

from __future__ import annotations

import os
import struct
import uuid as uuids
from typing import Final

FOOTER_SIZE: Final = 512
_FOOTER: Final = struct.Struct(">8sIIqI4sI4sqqIII16sB427x")
_FEATURES: Final = 2  # reserved, always set
_VERSION: Final = 0x00010000
_NO_DATA_OFFSET: Final = -1
_CREATOR_VERSION: Final = 0x000A0000
_FIXED: Final = 2


def footer(size: int, uuid: uuids.UUID | None = None) -> bytes:
    """The last 512 bytes of a VHD.

    Args:
        size: Of the disk in bytes, without the footer.
        uuid: Of the disk; by default a random one.
    """
    unique = (uuid or uuids.uuid4()).bytes

    def pack(checksum: int) -> bytes:
        return _FOOTER.pack(
            b"conectix",
            _FEATURES,
            _VERSION,
            _NO_DATA_OFFSET,
            0,
            b"",
            _CREATOR_VERSION,
            b"",
            size,
            size,
            0,
            _FIXED,
            checksum,
            unique,
            0,
        )

    return pack(~sum(pack(0)) & 0xFFFFFFFF)


def append(descriptor: int, size: int, uuid: uuids.UUID | None = None) -> None:
    """Write the footer behind a disk of this size in an open file.

    Raises:
        OSError: it cannot be written.
    """
    data = footer(size, uuid)
    while data:
        written = os.pwrite(descriptor, data, size)
        size += written
        data = data[written:]
