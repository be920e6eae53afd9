"""What describes the groups of an image: inode table, bitmaps, descriptors, superblock.

All of it is written when the data is complete: tables and bitmaps behind it, descriptors and
superblock in front. See https://docs.kernel.org/filesystems/ext4/globals.html.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from tar2ext4 import superblock
from tar2ext4.errors import ImageTooLargeError
from tar2ext4.layout import (
    BLOCK_SIZE,
    BLOCKS_PER_GROUP,
    GROUP_DESCRIPTOR_SIZE,
    GROUPS_PER_DESCRIPTOR_BLOCK,
    INODE_SIZE,
    INODES_PER_BLOCK,
    best_group_count,
)

if TYPE_CHECKING:
    from tar2ext4.inode import Inode
    from tar2ext4.output import ImageFile

#: Block bitmap, inode bitmap, inode table; free blocks, free inodes, directories.
_DESCRIPTOR: Final = struct.Struct("<IIIHHH14x")
assert _DESCRIPTOR.size == GROUP_DESCRIPTOR_SIZE
_NO_INODE: Final = bytes(INODE_SIZE)
_TABLE_PIECE: Final = 1024  # inodes


def write(
    image: ImageFile, inodes: list[Inode | None], descriptor_blocks: int, *, inline_data: bool
) -> None:
    """Finish an image.

    Args:
        image: With all data and directories.
        inodes: From number 1 on.
        descriptor_blocks: Blocks reserved behind the superblock.

    Raises:
        ImageTooLargeError: the image or its descriptors exceed the maximum size.
        OutputError: the image cannot be written.
    """
    table = image.block
    count, per_group = best_group_count(table, len(inodes))
    used_descriptor_blocks = -(-count // GROUPS_PER_DESCRIPTOR_BLOCK)
    if used_descriptor_blocks > descriptor_blocks:
        raise ImageTooLargeError(
            f"{len(inodes)} files need {count} block groups; the maximum size of the image has "
            f"room for {descriptor_blocks * GROUPS_PER_DESCRIPTOR_BLOCK}"
        )
    _write_inodes(image, inodes, count * per_group)

    bitmaps = image.block
    used_end = bitmaps + 2 * count
    disk_end = max(used_end, (count - 1) * BLOCKS_PER_GROUP + 1)
    directories = _directories_by_group(inodes, count, per_group)
    descriptors = bytearray()
    free_blocks = free_inodes = 0
    for group in range(count):
        blocks_used = _block_bitmap(group, used_end, disk_end)
        if group == 0:
            unused = descriptor_blocks - used_descriptor_blocks
            blocks_used &= ~((1 << unused) - 1 << 1 + used_descriptor_blocks)
        inodes_used = min(max(len(inodes) - group * per_group, 0), per_group)
        image.write(blocks_used.to_bytes(BLOCK_SIZE, "little"))
        image.write(((1 << inodes_used) - 1).to_bytes(BLOCK_SIZE, "little"))
        free_blocks += (here := BLOCKS_PER_GROUP - blocks_used.bit_count())
        free_inodes += per_group - inodes_used
        descriptors += _DESCRIPTOR.pack(
            bitmaps + 2 * group,
            bitmaps + 2 * group + 1,
            table + group * (per_group // INODES_PER_BLOCK),
            here,
            per_group - inodes_used,
            directories[group],
        )
    image.zeros((disk_end - used_end) * BLOCK_SIZE)
    image.write_at(1, descriptors.ljust(descriptor_blocks * BLOCK_SIZE, b"\0"))
    geometry = superblock.Geometry(disk_end, free_blocks, count * per_group, free_inodes, per_group)
    image.write_at(0, superblock.encode(geometry, inline_data=inline_data))


def _write_inodes(image: ImageFile, inodes: list[Inode | None], total: int) -> None:
    for start in range(0, len(inodes), _TABLE_PIECE):
        image.write(
            b"".join(
                _NO_INODE if inode is None else inode.encode()
                for inode in inodes[start : start + _TABLE_PIECE]
            )
        )
    image.zeros((total - len(inodes)) * INODE_SIZE)


def _directories_by_group(inodes: list[Inode | None], count: int, per_group: int) -> list[int]:
    directories = [0] * count
    for inode in inodes:
        if inode is not None and inode.is_directory:
            directories[(inode.number - 1) // per_group] += 1
    return directories


def _block_bitmap(group: int, used_end: int, disk_end: int) -> int:
    """Bit n stands for block n of the group: used, or beyond the end of the disk."""
    start = group * BLOCKS_PER_GROUP
    used = (1 << min(max(used_end - start, 0), BLOCKS_PER_GROUP)) - 1
    present = (1 << min(disk_end - start, BLOCKS_PER_GROUP)) - 1
    return used | ((1 << BLOCKS_PER_GROUP) - 1) ^ present
