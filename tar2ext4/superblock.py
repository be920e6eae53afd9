"""The superblock of an ext4 file system: ours to write, anyone's to read.

See https://docs.kernel.org/filesystems/ext4/super.html.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tar2ext4.errors import ImageFormatError
from tar2ext4.layout import (
    BLOCK_SIZE,
    BLOCKS_PER_GROUP,
    EXTRA_ISIZE,
    FIRST_INODE,
    INODE_SIZE,
    LOST_AND_FOUND_INODE,
)

if TYPE_CHECKING:
    from typing import BinaryIO

OFFSET: Final = 1024
SIZE: Final = 1024
_MAGIC: Final = 0xEF53
_COMPAT_EXT_ATTR: Final = 0x8
_COMPAT_SPARSE_SUPER2: Final = 0x200
_INCOMPAT_FILETYPE: Final = 0x2
_INCOMPAT_EXTENTS: Final = 0x40
_INCOMPAT_FLEX_BG: Final = 0x200
_INCOMPAT_INLINE_DATA: Final = 0x8000
_RO_COMPAT_LARGE_FILE: Final = 0x2
_RO_COMPAT_HUGE_FILE: Final = 0x8
_RO_COMPAT_EXTRA_ISIZE: Final = 0x40
_RO_COMPAT_READONLY: Final = 0x1000
#: One flexible group for the whole disk, so that tables may be anywhere.
_LOG_GROUPS_PER_FLEX: Final = 31
_LOG_BLOCK_SIZE: Final = 2  # 1024 << 2
_STATE_CLEAN: Final = 1
_ERRORS_CONTINUE: Final = 1
_REVISION_DYNAMIC: Final = 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """What differs between the superblocks of two images; all are counts."""

    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    inodes_per_group: int


def encode(geometry: Geometry, *, inline_data: bool) -> bytes:
    """Block 0 of an image."""
    incompat = _INCOMPAT_FILETYPE | _INCOMPAT_EXTENTS | _INCOMPAT_FLEX_BG
    if inline_data:
        incompat |= _INCOMPAT_INLINE_DATA
    block = bytearray(BLOCK_SIZE)

    def put(offset: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, block, OFFSET + offset, *values)

    put(0x00, "II", geometry.inodes, geometry.blocks)
    put(0x0C, "II", geometry.free_blocks, geometry.free_inodes)
    put(0x18, "II", _LOG_BLOCK_SIZE, _LOG_BLOCK_SIZE)
    put(0x20, "III", BLOCKS_PER_GROUP, BLOCKS_PER_GROUP, geometry.inodes_per_group)
    put(0x38, "HHH", _MAGIC, _STATE_CLEAN, _ERRORS_CONTINUE)
    put(0x4C, "I", _REVISION_DYNAMIC)
    put(0x54, "IH", FIRST_INODE, INODE_SIZE)
    put(0x5C, "II", _COMPAT_SPARSE_SUPER2 | _COMPAT_EXT_ATTR, incompat)
    put(
        0x64,
        "I",
        _RO_COMPAT_LARGE_FILE | _RO_COMPAT_HUGE_FILE | _RO_COMPAT_EXTRA_ISIZE | _RO_COMPAT_READONLY,
    )
    put(0x15C, "HH", EXTRA_ISIZE, EXTRA_ISIZE)
    put(0x174, "B", _LOG_GROUPS_PER_FLEX)
    put(0x268, "I", LOST_AND_FOUND_INODE)
    return bytes(block)


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Size of a file system in bytes, and its block size.

    Args:
        file: Seekable; the file system starts at its first byte.

    Raises:
        ImageFormatError: there is no ext4 file system.
    """
    file.seek(OFFSET)
    block = file.read(SIZE)
    if len(block) < SIZE or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
        raise ImageFormatError(f"{getattr(file, 'name', 'input')}: no ext4 file system")
    (blocks,) = struct.unpack_from("<I", block, 0x4)
    (log_block_size,) = struct.unpack_from("<I", block, 0x18)
    if log_block_size > 6:
        raise ImageFormatError(
            f"{getattr(file, 'name', 'input')}: damaged ext4 superblock: "
            f"block size 2^{10 + log_block_size}"
        )
    block_size = 1024 << log_block_size
    return blocks * block_size, block_size
