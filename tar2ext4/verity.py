"""Hash trees for dm-verity, and the superblock that describes one.

A tree has a SHA-256 of each block, salted; the hashes fill blocks of their own, which are hashed
again, until one block is left. The digest of that block is the root digest: a kernel that is told
it reads nothing but what was there when the tree was made. Format:
https://docs.kernel.org/admin-guide/device-mapper/verity.html and the superblock of veritysetup.
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid as uuids
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tar2ext4.errors import ImageFormatError
from tar2ext4.layout import BLOCK_SIZE

if TYPE_CHECKING:
    from typing import BinaryIO

#: Hashes of layers are salted with zeros, so that equal layers have equal digests.
SALT: Final = bytes(32)
RECOMMENDED_DISK_SIZE: Final = 128 << 30

_DIGEST_SIZE: Final = 32
_PER_BLOCK: Final = BLOCK_SIZE // _DIGEST_SIZE
_PIECE: Final = 1 << 20
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")
_SIGNATURE: Final = b"verity"


@dataclass(frozen=True, slots=True)
class VerityInfo:
    """What a verity superblock says, and the root digest.

    Attributes:
        hash_offset: Block, of those of the data, at which the superblock stands.
        data_blocks: Number of blocks of data.
        root_digest: Hexadecimal.
        salt: Hexadecimal.
    """

    hash_offset: int
    data_blocks: int
    root_digest: str
    salt: str
    algorithm: str
    data_block_size: int
    hash_block_size: int
    version: int


def level_sizes(blocks: int) -> list[int]:
    """Blocks of each level of a tree over so many blocks of data, the lowest level first."""
    sizes = []
    while True:
        blocks = -(-blocks // _PER_BLOCK)
        sizes.append(blocks)
        if blocks <= 1:
            return sizes


def tree_size(blocks: int) -> int:
    """Bytes of a tree over so many blocks of data."""
    return sum(level_sizes(blocks)) * BLOCK_SIZE


def root_digest(top_block: bytes, salt: bytes = SALT) -> str:
    """The root digest, hexadecimal, of a tree that begins with this block."""
    return hashlib.sha256(salt + top_block).hexdigest()


def _hash_blocks(data: bytes, salted: hashlib._Hash) -> bytes:
    digests = []
    view = memoryview(data)
    for at in range(0, len(data), BLOCK_SIZE):
        state = salted.copy()
        state.update(view[at : at + BLOCK_SIZE])
        digests.append(state.digest())
    return b"".join(digests)


def write_tree(descriptor: int, size: int, offset: int, salt: bytes = SALT) -> str:
    """Write the tree over the first bytes of a file into the same file.

    Memory does not grow with the size: each level is read back to make the one above.

    Args:
        descriptor: Open for reading and writing.
        size: Bytes to hash, whole blocks.
        offset: Where the tree goes, behind them.

    Returns:
        The root digest, hexadecimal.

    Raises:
        OSError: the file cannot be read or written.
        ImageFormatError: the size is no whole number of blocks, or the file is shorter.
    """
    if size <= 0 or size % BLOCK_SIZE:
        raise ImageFormatError(f"{size} bytes are not whole blocks of {BLOCK_SIZE}")
    salted = hashlib.sha256(salt)
    sizes = level_sizes(size // BLOCK_SIZE)
    source, end = 0, size
    for level, blocks in enumerate(sizes):
        target = offset + sum(sizes[level + 1 :]) * BLOCK_SIZE
        at = target
        for start in range(source, end, _PIECE):
            data = _pread(descriptor, min(_PIECE, end - start), start)
            at += _pwrite(descriptor, _hash_blocks(data, salted), at)
        _pwrite(descriptor, bytes(-at % BLOCK_SIZE), at)
        source, end = target, target + blocks * BLOCK_SIZE
    return root_digest(_pread(descriptor, BLOCK_SIZE, offset), salt)


def tree(source: BinaryIO, salt: bytes = SALT) -> bytes:
    """The tree over all that a file still holds.

    Raises:
        ImageFormatError: the file is empty, or does not end with a whole block.
    """
    salted = hashlib.sha256(salt)
    level = bytearray()
    while data := source.read(_PIECE):
        while len(data) % BLOCK_SIZE:
            more = source.read(BLOCK_SIZE - len(data) % BLOCK_SIZE)
            if not more:
                raise ImageFormatError(f"does not end with a whole block of {BLOCK_SIZE} bytes")
            data += more
        level += _hash_blocks(data, salted)
    if not level:
        raise ImageFormatError("nothing to make a hash tree of")
    levels = []
    while True:
        level += bytes(-len(level) % BLOCK_SIZE)
        levels.append(bytes(level))
        if len(level) == BLOCK_SIZE:
            return b"".join(reversed(levels))
        level = bytearray(_hash_blocks(levels[-1], salted))


def superblock(size: int, uuid: uuids.UUID | None = None) -> bytes:
    """The block that stands between data and tree.

    Args:
        size: Of the data in bytes.
        uuid: Of the hash device; by default a random one.
    """
    return _SUPERBLOCK.pack(
        _SIGNATURE,
        1,
        1,
        (uuid or uuids.uuid4()).bytes,
        b"sha256",
        BLOCK_SIZE,
        BLOCK_SIZE,
        size // BLOCK_SIZE,
        len(SALT),
        SALT,
    ).ljust(BLOCK_SIZE, b"\0")


def append(descriptor: int, size: int, uuid: uuids.UUID | None = None) -> str:
    """Write superblock and tree behind the data of an open file.

    Args:
        descriptor: Open for reading and writing.
        size: Of the data in bytes, whole blocks.
        uuid: Of the hash device; by default a random one.

    Returns:
        The root digest, hexadecimal.

    Raises:
        OSError: the file cannot be read or written.
        ImageFormatError: the size is no whole number of blocks, or the file is shorter.
    """
    digest = write_tree(descriptor, size, size + BLOCK_SIZE)
    _pwrite(descriptor, superblock(size, uuid), size)
    return digest


def read_info(file: BinaryIO, offset: int) -> VerityInfo:
    """What a file says about its hash tree.

    Args:
        file: Seekable.
        offset: Of the superblock in bytes; see `tar2ext4.superblock.read_size`.

    Raises:
        ImageFormatError: there is no verity superblock, or no tree behind it.
    """
    name = getattr(file, "name", "input")
    file.seek(offset)
    block = file.read(BLOCK_SIZE)
    if len(block) < BLOCK_SIZE:
        raise ImageFormatError(f"{name}: ends before a dm-verity superblock at byte {offset}")
    fields = _SUPERBLOCK.unpack_from(block)
    signature, version, _, _, algorithm, data_block, hash_block, blocks, salt_size, salt = fields
    if signature.rstrip(b"\0") != _SIGNATURE:
        raise ImageFormatError(f"{name}: no dm-verity superblock at byte {offset}")
    if salt_size > len(salt):
        raise ImageFormatError(f"{name}: damaged dm-verity superblock: a salt of {salt_size} bytes")
    top = file.read(BLOCK_SIZE)
    if len(top) < BLOCK_SIZE:
        raise ImageFormatError(f"{name}: ends before the hash tree at byte {offset + BLOCK_SIZE}")
    return VerityInfo(
        hash_offset=blocks,
        data_blocks=blocks,
        root_digest=root_digest(top, salt[:salt_size]),
        salt=salt[:salt_size].hex(),
        algorithm=algorithm.rstrip(b"\0").decode("ascii", "replace"),
        data_block_size=data_block,
        hash_block_size=hash_block,
        version=version,
    )


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    parts = []
    while size > 0:
        data = os.pread(descriptor, size, offset)
        if not data:
            raise ImageFormatError(f"the file ends at byte {offset}, {size} bytes too early")
        parts.append(data)
        size -= len(data)
        offset += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]
    return len(data)
