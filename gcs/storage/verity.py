"""dm-verity: layers whose every block is checked against one root digest (spec 5.5).

Behind the file system of a layer, in the same device, come a superblock (linux's
`struct verity_sb`, as `veritysetup` and the host's image tool write it) and a tree of hashes.  The
digest of the tree's top block is the root digest: it identifies the content of the layer.
"""

from __future__ import annotations

import os
from errno import EINVAL
from struct import Struct
from typing import Final

import msgspec

from gcs.linux.device_mapper import SECTOR, Target
from gcs.protocol.errors import GcsError
from gcs.storage import filesystem

# signature, version, hash type, UUID, algorithm, data block size, hash block size, data blocks,
# size of the salt, salt
_SUPERBLOCK: Final = Struct("<8sII16s32sIIQH6x256s")
_SIGNATURE: Final = b"verity\0\0"
#: Algorithm → size of its digests, in bytes.
_ALGORITHMS: Final = {"sha256": 32, "sha384": 48, "sha512": 64}
_BLOCK_SIZES: Final = (512, 1024, 2048, 4096)


class HashTree(msgspec.Struct, frozen=True):
    """The hashes of a device, and where they are."""

    version: int
    algorithm: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    first_hash_block: int
    salt: str
    """In hexadecimal digits; "" without salt."""
    root_digest: str
    """In hexadecimal digits."""


def read_tree(device: str) -> HashTree:
    """Read superblock and root digest behind the file system that a device holds.

    Raises GcsError naming the device and what is wrong: no file system, no superblock behind it, a
    superblock that makes no sense; OSError when the device cannot be read.
    """
    size = filesystem.size_in_bytes(device)
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        superblock = os.pread(descriptor, _SUPERBLOCK.size, size)
        if len(superblock) < _SUPERBLOCK.size or not superblock.startswith(_SIGNATURE):
            raise GcsError(
                f"device {device} has no dm-verity superblock at byte {size}, behind its file "
                "system: the layer was made without hashes, or is damaged"
            )
        fields = _check(device, size, _SUPERBLOCK.unpack(superblock))
        block = fields.hash_block_size
        # A single block of data needs no tree: its own digest is the root.
        single = fields.data_blocks == 1
        top = os.pread(descriptor, block, 0 if single else fields.first_hash_block * block)
    except OSError as error:
        raise OSError(error.errno, f"read dm-verity hashes: {error.strerror}", device) from None
    finally:
        os.close(descriptor)
    if len(top) < block:
        raise GcsError(f"device {device} ends before the first block of its dm-verity hashes")
    return msgspec.structs.replace(fields, root_digest=_digest(fields, top))


def require_root(device: str, tree: HashTree, expected: str) -> None:
    """Raise GcsError unless the root digest of a device is the expected one."""
    if tree.root_digest != expected.lower():
        raise GcsError(
            f"device {device} has the dm-verity root digest {tree.root_digest}, not "
            f"{expected[:128]} as was asked for: it is another layer, or was changed"
        )


def verity_target(device: str, tree: HashTree) -> Target:
    """The target that reads a device with its hashes, and nothing that does not match them."""
    parameters = (
        f"{tree.version} {device} {device} {tree.data_block_size} {tree.hash_block_size} "
        f"{tree.data_blocks} {tree.first_hash_block} {tree.algorithm} {tree.root_digest} "
        f"{tree.salt or '-'}"
    )
    return Target("verity", tree.data_blocks * tree.data_block_size // SECTOR, parameters)


def corruption_hint(error: OSError) -> str:
    """What an error of mounting a checked device means, as an addition to its message."""
    from errno import EBADMSG, EIO, EUCLEAN

    if error.errno in (EIO, EBADMSG, EUCLEAN, EINVAL):
        return "; dm-verity lets no block pass that does not match the root digest"
    return ""


def _check(device: str, size: int, fields: tuple[int | bytes, ...]) -> HashTree:
    _, version, _, _, name, data_size, hash_size, blocks, salt_size, salt = fields
    assert isinstance(name, bytes)
    assert isinstance(salt, bytes)
    algorithm = name.partition(b"\0")[0].decode("ascii", "replace")
    problem = ""
    if version != 1:
        problem = f"version {version!r}"
    elif algorithm not in _ALGORITHMS:
        problem = f"algorithm {algorithm!r}"
    elif data_size not in _BLOCK_SIZES or hash_size not in _BLOCK_SIZES:
        problem = f"blocks of {data_size!r} and {hash_size!r} bytes"
    elif not isinstance(salt_size, int) or salt_size > len(salt):
        problem = f"a salt of {salt_size!r} bytes"
    elif not isinstance(blocks, int) or blocks * int(data_size) != size or size % int(hash_size):
        problem = f"{blocks!r} blocks of {data_size!r} bytes for a file system of {size} bytes"
    if problem:
        raise GcsError(f"the dm-verity superblock of device {device} is not valid: {problem}")
    return HashTree(
        version=1,
        algorithm=algorithm,
        data_block_size=int(data_size),
        hash_block_size=int(hash_size),
        data_blocks=int(blocks),
        # The superblock takes one whole block.
        first_hash_block=size // int(hash_size) + 1,
        salt=salt[: int(salt_size)].hex(),
        root_digest="",
    )


def _digest(tree: HashTree, block: bytes) -> str:
    import hashlib

    # The salt comes first since version 1.
    return hashlib.new(tree.algorithm, bytes.fromhex(tree.salt) + block).hexdigest()
