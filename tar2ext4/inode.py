"""An inode in memory, and its 256 bytes on disk.

See https://docs.kernel.org/filesystems/ext4/inodes.html.
"""

from __future__ import annotations

import struct
from typing import Final

from tar2ext4 import xattrs
from tar2ext4.layout import (
    EXTRA_ISIZE,
    INODE_BLOCK_SIZE,
    INODE_EXTRA_SIZE,
    INODE_FIELDS_SIZE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFLNK,
    TYPE_MASK,
)

_FIELDS: Final = struct.Struct(
    "<HHI"  # mode, uid, size
    "IIII"  # atime, ctime, mtime, dtime
    "HHII4x"  # gid, links, blocks, flags, version
    "60s"  # block pointers, extents, or data
    "4xII4x"  # generation, attribute block, size (high), fragment
    "4xHH4x"  # blocks (high), attribute block (high), uid (high), gid (high), checksum, reserved
    "HHIIIII"  # extra size, checksum (high), ctime, mtime, atime (extra), crtime, crtime (extra)
)
assert _FIELDS.size == INODE_FIELDS_SIZE
_UINT32: Final = 0xFFFFFFFF
_NO_CHILDREN: Final[dict[bytes, Inode]] = {}


class Inode:
    """What is known of a file; times are encoded (`timestamps.encode`), sizes are bytes."""

    __slots__ = (
        "atime",
        "attribute_area",
        "attribute_block",
        "blocks",
        "children",
        "crtime",
        "ctime",
        "data",
        "device",
        "flags",
        "gid",
        "links",
        "mode",
        "mtime",
        "number",
        "size",
        "uid",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.size = 0
        self.atime = 0
        self.ctime = 0
        self.mtime = 0
        self.crtime = 0
        self.links = 0
        self.blocks = 0
        self.flags = 0
        self.device = (0, 0)
        #: Extents, inline data, or the target of a symbolic link.
        self.data = b""
        self.attribute_area = b""
        self.attribute_block = 0
        #: Of a directory, by name; a directory gets a dictionary of its own.
        self.children: dict[bytes, Inode] = _NO_CHILDREN

    @property
    def is_directory(self) -> bool:
        return self.mode & TYPE_MASK == S_IFDIR

    @property
    def is_symlink(self) -> bool:
        return self.mode & TYPE_MASK == S_IFLNK

    def encode(self) -> bytes:
        """The inode as it is in the inode table."""
        data, area = self.data, self.attribute_area
        file_type = self.mode & TYPE_MASK
        if file_type in (S_IFCHR, S_IFBLK):
            data = struct.pack("<4xI", _encode_device(*self.device))
        elif len(data) > INODE_BLOCK_SIZE:
            area = xattrs.with_inline_data(area, data[INODE_BLOCK_SIZE:])
        return _FIELDS.pack(
            self.mode,
            self.uid & 0xFFFF,
            self.size & _UINT32,
            self.atime & _UINT32,
            self.ctime & _UINT32,
            self.mtime & _UINT32,
            0,
            self.gid & 0xFFFF,
            self.links,
            self.blocks,
            self.flags,
            data[:INODE_BLOCK_SIZE],
            self.attribute_block,
            self.size >> 32,
            self.uid >> 16,
            self.gid >> 16,
            EXTRA_ISIZE,
            0,
            self.ctime >> 32,
            self.mtime >> 32,
            self.atime >> 32,
            self.crtime & _UINT32,
            self.crtime >> 32,
        ) + (area or _NO_ATTRIBUTES)


_NO_ATTRIBUTES: Final = bytes(INODE_EXTRA_SIZE)


def _encode_device(major: int, minor: int) -> int:
    """A device number in the kernel's newer encoding; a larger major spills, as it does there."""
    return (minor & 0xFF | major << 8 | (minor & 0xFFFFFF00) << 12) & _UINT32
