"""dm-crypt: scratch disks that only the guest can read, and only until they are removed (5.6).

What is on such a disk is encrypted (AES-XTS) and authenticated (HMAC-SHA256), sector by sector: a
host that changes it causes read errors.  dm-integrity keeps the authentication tags, dm-crypt
does the rest.  The key is made for one Add and exists in the kernel only, in the table of the
mapped device, where the kernel erases it with the device.  There is no header with keys on the disk
and no file with one anywhere, so that what was written can never be read again.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, Final

from gcs.linux.device_mapper import SECTOR, Target
from gcs.protocol.errors import GcsError
from gcs.storage.mapped_devices import try_remove

if TYPE_CHECKING:
    from contextlib import ExitStack

    from gcs.storage.mapped_devices import MapperSystem

#: Bytes that are encrypted and authenticated together.
BLOCK: Final = 4096
_CIPHER: Final = "capi:authenc(hmac(sha256),xts(aes))-plain64"
#: Two keys of AES-256 for XTS, and one for the authentication.
KEY_BYTES: Final = 32 + 32 + 32
_TAG_BYTES: Final = 32
#: A journal, hashes and a file system fit into no less.
LEAST_BYTES: Final = 1 << 20

# drivers/md/dm-integrity.c, struct superblock: magic, version, interleaving, size of tags, sections
# of the journal, sectors for data
_SUPERBLOCK: Final = Struct("<8sBBHIQ")
_MAGIC: Final = b"integrt\0"
_PROBED: Final = 32
_ZEROES: Final = bytes(BLOCK)


def encrypt(system: MapperSystem, device: str, name: str, undo: ExitStack) -> tuple[str, list[str]]:
    """Turn a device into one that is encrypted with a new key, destroying what is on it.

    name: of the mapped device.
    undo: gets what takes it back.

    Returns the node of the mapped device, and the names of all mapped devices in the order in which
    they were made; to be removed in the opposite order.

    Raises GcsError when the device is too small, OSError when the kernel refuses.
    """
    integrity = f"{name}-integrity"
    sectors = _format(system, device, integrity)
    lower = system.create(integrity, [_integrity_target(device, sectors)], read_only=False)
    undo.callback(try_remove, system, integrity)
    node = system.create(
        name, [crypt_target(lower, sectors, os.urandom(KEY_BYTES))], read_only=False, secret=True
    )
    undo.callback(try_remove, system, name)
    _write_zeroes(node, first_read_blocks(sectors // (BLOCK // SECTOR)))
    return node, [integrity, name]


def crypt_target(device: str, sectors: int, key: bytes) -> Target:
    """The target that encrypts what is written to a device with room for tags."""
    parameters = (
        f"{_CIPHER} {key.hex()} 0 {device} 0 2 integrity:{_TAG_BYTES}:aead sector_size:{BLOCK}"
    )
    return Target("crypt", sectors, parameters)


def first_read_blocks(blocks: int) -> list[int]:
    """Blocks that are read before they are written as a whole, when a file system is made.

    Reading what was never written is an error, since its tags do not match.  Programs look for
    other formats at the start of a device first, and ext4 keeps copies of its superblock, which
    take a part of a block, at the start of the groups 1 and the powers of 3, 5 and 7.

    blocks: of BLOCK bytes that the device has.
    """
    # One block holds the bitmap of a group.
    group = BLOCK * 8
    numbers = {1}
    for base in (3, 5, 7):
        power = base
        while power * group < blocks:
            numbers.add(power)
            power *= base
    copies = [number * group for number in sorted(numbers)]
    return [block for block in (*range(_PROBED), *copies) if block < blocks]


def _integrity_target(device: str, sectors: int) -> Target:
    # "D": without a journal, since a disk whose VM has crashed is of no use to anybody.
    return Target("integrity", sectors, f"{device} 0 {_TAG_BYTES} D 1 block_size:{BLOCK}")


def _format(system: MapperSystem, device: str, name: str) -> int:
    """Make room for tags on a device; how many sectors are left for data."""
    size = _size(device)
    if size < LEAST_BYTES:
        raise GcsError(
            f"device {device} has {size} bytes; an encrypted one needs {LEAST_BYTES} or more"
        )
    # The kernel makes its superblock where there are zeroes, and uses one that it finds.
    _write_zeroes(device, [0])
    system.create(name, [_integrity_target(device, BLOCK // SECTOR)], read_only=False)
    system.remove(name)
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        magic, _, _, _, _, sectors = _SUPERBLOCK.unpack(os.pread(descriptor, _SUPERBLOCK.size, 0))
    finally:
        os.close(descriptor)
    if magic != _MAGIC:
        raise GcsError(f"device {device}: the kernel made no room for authentication tags on it")
    return int(sectors) // (BLOCK // SECTOR) * (BLOCK // SECTOR)


def _size(device: str) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _write_zeroes(device: str, blocks: list[int]) -> None:
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for block in blocks:
                os.pwrite(descriptor, _ZEROES, block * BLOCK)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"write zeroes: {error.strerror}", device) from None
