"""Directories as a list of entries, block by block.

See https://docs.kernel.org/filesystems/ext4/directory.html#linear-classic-directories.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tar2ext4.layout import (
    BLOCK_SIZE,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
    TYPE_MASK,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tar2ext4.inode import Inode

_ENTRY: Final = struct.Struct("<IHBB")  # inode, length of the entry, of the name, type
#: The entry without a name that closes each block, and the least room it needs.
_CLOSING_SIZE: Final = 12

_FILE_TYPES: Final = {
    S_IFREG: 1,
    S_IFDIR: 2,
    S_IFCHR: 3,
    S_IFBLK: 4,
    S_IFIFO: 5,
    S_IFSOCK: 6,
    S_IFLNK: 7,
}


def children_in_order(directory: Inode) -> list[tuple[bytes, Inode]]:
    """Names and inodes, by number of the inode as e2fsck would have it, then by name."""
    return sorted(directory.children.items(), key=lambda child: (child[1].number, child[0]))


def encode(directory: Inode, parent: Inode, children: list[tuple[bytes, Inode]]) -> Iterator[bytes]:
    """The blocks of a directory."""
    block = bytearray()
    for name, inode in ((b".", directory), (b"..", parent), *children):
        size = _ENTRY.size + (len(name) + 3 & ~3)
        if len(block) + size + _CLOSING_SIZE > BLOCK_SIZE:
            yield _close(block)
            block = bytearray()
        block += _ENTRY.pack(inode.number, size, len(name), _FILE_TYPES[inode.mode & TYPE_MASK])
        block += name
        block += b"\0\0\0"[: -len(name) % 4]
    yield _close(block)


def _close(block: bytearray) -> bytes:
    return bytes(block) + _ENTRY.pack(0, BLOCK_SIZE - len(block), 0, 0).ljust(
        BLOCK_SIZE - len(block), b"\0"
    )
