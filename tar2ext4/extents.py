"""Where the blocks of a file are: it has one run of them, cut into extents of 32768 blocks.

See https://docs.kernel.org/filesystems/ext4/ifork.html#extent-tree.
"""

from __future__ import annotations

import struct
from typing import Final

from tar2ext4.layout import BLOCK_SIZE

_HEADER: Final = struct.Struct("<HHHHI")  # magic, entries, room for, depth, generation
_LEAF: Final = struct.Struct("<IHHI")  # first block in the file, count, first on disk (high, low)
_ONE: Final = struct.Struct("<HHHHIIHHI")  # a header and a leaf
_INDEX: Final = struct.Struct("<IIHH")  # first block in the file, block of the leaf (low, high)
_MAGIC: Final = 0xF30A
_MAX_LENGTH: Final = 0x8000
_IN_INODE: Final = 4
_IN_BLOCK: Final = BLOCK_SIZE // _HEADER.size - 1


def encode(start: int, blocks: int) -> tuple[bytes, bytes]:
    """The extents of a file.

    Args:
        start: First block on disk.
        blocks: Their number; 0 gives nothing.

    Returns:
        What goes into the inode, and the blocks to write directly behind those of the file, if any.
    """
    if blocks == 0:
        return b"", b""
    if blocks <= _MAX_LENGTH:
        return _ONE.pack(_MAGIC, 1, _IN_INODE, 0, 0, 0, blocks, 0, start), b""
    extents = [
        _LEAF.pack(at, min(_MAX_LENGTH, blocks - at), 0, start + at)
        for at in range(0, blocks, _MAX_LENGTH)
    ]
    if len(extents) <= _IN_INODE:
        return _node(extents, _IN_INODE, 0), b""
    # The reference takes a further, empty leaf when the last one is full; nothing larger than
    # 42 GiB is affected.
    leaves = [extents[at : at + _IN_BLOCK] for at in range(0, len(extents), _IN_BLOCK)]
    index = [
        _INDEX.pack(number * _IN_BLOCK * _MAX_LENGTH, start + blocks + number, 0, 0)
        for number in range(len(leaves))
    ]
    tail = b"".join(_node(leaf, _IN_BLOCK, 0).ljust(BLOCK_SIZE, b"\0") for leaf in leaves)
    return _node(index, _IN_INODE, 1), tail


def start(encoded: bytes) -> int:
    """The first block of a file of up to four extents."""
    return int(_ONE.unpack_from(encoded)[-1])


def _node(entries: list[bytes], room: int, depth: int) -> bytes:
    return _HEADER.pack(_MAGIC, len(entries), room, depth, 0) + b"".join(entries)
