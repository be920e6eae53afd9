"""Sizes and flags of the images, and how many block groups one needs.

The images have one fixed shape (4096-byte blocks, 256-byte inodes, no journal, read-only), the one
of the reference: root digests of layers depend on every byte of it. The numbers are those of the
ext4 disk layout (https://docs.kernel.org/filesystems/ext4/).
"""

from __future__ import annotations

from typing import Final

BLOCK_SIZE: Final = 4096
BLOCKS_PER_GROUP: Final = BLOCK_SIZE * 8  # one block of bitmap
GROUP_DESCRIPTOR_SIZE: Final = 32
GROUPS_PER_DESCRIPTOR_BLOCK: Final = BLOCK_SIZE // GROUP_DESCRIPTOR_SIZE

INODE_SIZE: Final = 256
#: Bytes of an inode with fields, up to the fraction of its creation time.
INODE_FIELDS_SIZE: Final = 152
#: Bytes behind them, for extended attributes.
INODE_EXTRA_SIZE: Final = INODE_SIZE - INODE_FIELDS_SIZE
#: How much longer the fields are than those of a classic inode.
EXTRA_ISIZE: Final = INODE_FIELDS_SIZE - 128
#: Bytes in an inode for block pointers, extents, or short data.
INODE_BLOCK_SIZE: Final = 60
INODES_PER_BLOCK: Final = BLOCK_SIZE // INODE_SIZE
MAX_INODES_PER_GROUP: Final = BLOCK_SIZE * 8

ROOT_INODE: Final = 2
FIRST_INODE: Final = 11
LOST_AND_FOUND_INODE: Final = FIRST_INODE

MAX_LINKS: Final = 65000
MAX_NAME: Final = 255
MAX_FILE_SIZE: Final = 128 << 30
#: A longer link target takes a block.
MAX_INLINE_SYMLINK: Final = 59
DEFAULT_MAXIMUM_DISK_SIZE: Final = 16 << 30
LARGEST_DISK_SIZE: Final = 16 << 40

TYPE_MASK: Final = 0xF000
S_IFIFO: Final = 0x1000
S_IFCHR: Final = 0x2000
S_IFDIR: Final = 0x4000
S_IFBLK: Final = 0x6000
S_IFREG: Final = 0x8000
S_IFLNK: Final = 0xA000
S_IFSOCK: Final = 0xC000

FLAG_HUGE_FILE: Final = 0x40000
FLAG_EXTENTS: Final = 0x80000
FLAG_INLINE_DATA: Final = 0x10000000

_UINT32: Final = 0xFFFFFFFF


def maximum_disk_size(requested: int | None) -> int:
    """The limit of an image's size in bytes: whole blocks, from one block to 16 TiB.

    None and 0 mean the default of 16 GiB; what is negative or above 16 TiB means 16 TiB.
    """
    if not requested:
        return DEFAULT_MAXIMUM_DISK_SIZE
    if requested < 0 or requested > LARGEST_DISK_SIZE:
        return LARGEST_DISK_SIZE
    return -(-requested // BLOCK_SIZE) * BLOCK_SIZE


def descriptor_blocks(disk_size: int) -> int:
    """Blocks to reserve for the group descriptors of a disk of this size in bytes."""
    groups = -(-disk_size // (BLOCK_SIZE * BLOCKS_PER_GROUP))
    return -(-groups // GROUPS_PER_DESCRIPTOR_BLOCK)


def _groups_for(blocks: int, inodes: int, inodes_per_group: int) -> int:
    # In 32 bits, as the reference counts: it matters from two million files on.
    data_blocks = BLOCKS_PER_GROUP - inodes_per_group // INODES_PER_BLOCK - 2
    for_inodes = ((inodes - 1) // inodes_per_group * data_blocks + 1) & _UINT32
    return ((max(blocks, for_inodes) + data_blocks - 1) & _UINT32) // data_blocks


def best_group_count(blocks: int, inodes: int) -> tuple[int, int]:
    """Number of block groups, and of inodes in each, for an image.

    The fewest groups, and among the choices that give so many, the fewest inodes.

    Args:
        blocks: Blocks written before the inode table.
        inodes: Inodes used, the reserved ones included.
    """
    best, best_inodes = _UINT32, 0
    for inodes_per_group in range(INODES_PER_BLOCK, MAX_INODES_PER_GROUP + 1, INODES_PER_BLOCK):
        groups = _groups_for(blocks, inodes, inodes_per_group)
        if groups < best:
            best, best_inodes = groups, inodes_per_group
    return best, best_inodes
