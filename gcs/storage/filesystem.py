"""File systems on block devices: recognised by their magic numbers, made by mkfs (spec 5.9)."""

from __future__ import annotations

import os
import subprocess  # costs nothing: asyncio has imported it
from typing import TYPE_CHECKING, Final

from gcs.linux.oom import run_helper
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

EXT4: Final = "ext4"
XFS: Final = "xfs"

# name, offset in bytes, content.  The ext family is "ext4": that driver mounts ext2 and ext3, too.
# Containers of other things come first, since they may hold what looks like a file system.
_MAGIC: Final[tuple[tuple[str, int, bytes], ...]] = (
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM", 512, b"LABELONE"),
    ("RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("dm-verity hashes", 0, b"verity\0\0"),
    ("swap", 4086, b"SWAPSPACE2"),
    (XFS, 0, b"XFSB"),
    ("squashfs", 0, b"hsqs"),
    (EXT4, 1080, b"\x53\xef"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("jfs", 0x8000, b"JFS1"),
    ("iso9660", 0x8001, b"CD001"),
    ("udf", 0x8001, b"BEA01"),
    ("exfat", 3, b"EXFAT   "),
    ("ntfs", 3, b"NTFS    "),
    ("vfat", 82, b"FAT32   "),
    ("vfat", 54, b"FAT1"),
    ("partition table", 512, b"EFI PART"),
    ("partition table", 4096, b"EFI PART"),
)
_NOT_MOUNTABLE: Final = frozenset(
    ("LUKS", "LVM", "RAID", "dm-verity hashes", "swap", "partition table")
)

_MKFS: Final[dict[str, tuple[str, ...]]] = {EXT4: ("mkfs.ext4",), XFS: ("mkfs.xfs", "-f")}
_OUTPUT_SHOWN: Final = 2000

# A disk mounted read-only must not be written to, not even to replay its journal (spec 3.3, 11.24).
_NO_REPLAY: Final = {EXT4: "noload", XFS: "norecovery"}

_DIRECT_ACCESS: Final = {EXT4: "dax", XFS: "dax", "erofs": "dax"}


def detect(device: str) -> str:
    """What a block device or image holds: a file system type, another known format, or "".

    Raises OSError naming the device when it cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for name, offset, content in _MAGIC:
            if os.pread(descriptor, len(content), offset) == content:
                return name
        first_sector = os.pread(descriptor, 512, 0)
    except OSError as error:
        raise OSError(error.errno, f"read: {error.strerror}", device) from None
    finally:
        os.close(descriptor)
    return "partition table" if _is_mbr(first_sector) else ""


def size_in_bytes(device: str) -> int:
    """How much of a device its file system takes: an ext, xfs, erofs or squashfs one.

    Raises GcsError when it holds none of these, OSError naming the device when it cannot be read.
    """
    kind = detect(device)
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        start = os.pread(descriptor, 4096, 0)
    finally:
        os.close(descriptor)
    size = _SIZES[kind](start) if kind in _SIZES else 0
    if size <= 0:
        raise GcsError(
            f"device {device} holds {kind or 'no file system that is known'}, "
            f"not one of {', '.join(_SIZES)}"
        )
    return size


def is_mountable(kind: str) -> bool:
    """Whether a result of `detect` is a file system."""
    return bool(kind) and kind not in _NOT_MOUNTABLE


def read_only_data(filesystem: str) -> str:
    """Mount options that keep the kernel from writing to the device of a read-only mount."""
    return _NO_REPLAY.get(filesystem, "")


def direct_access_data(filesystem: str) -> str:
    """Mount options that let programs use the memory of a device itself; "" where that is unknown.

    The kernel refuses them when the device, or the size of the blocks, does not allow it.
    """
    return _DIRECT_ACCESS.get(filesystem, "")


def require_formattable(filesystem: str, device: str) -> None:
    """Raise GcsError unless `make_filesystem` can make this type (spec 3.3)."""
    if filesystem not in _MKFS:
        raise GcsError(
            f"unsupported filesystem {filesystem!r} requested for device {device}; "
            f"{' and '.join(_MKFS)} can be made"
        )


def make_filesystem(device: str, filesystem: str, *, limit: float) -> None:
    """Make a file system, destroying what the device holds.

    To be called in a worker thread: the agent's reaper takes other children for orphans.

    filesystem: "ext4" or "xfs".
    limit: seconds after which the program is killed.

    Raises GcsError with the program's output when it fails, is missing or takes too long.
    """
    require_formattable(filesystem, device)
    command = (*_MKFS[filesystem], device)
    try:
        done = run_helper(command, limit=limit)
    except FileNotFoundError as error:
        raise GcsError(
            f"format {device} as {filesystem}: {command[0]} is not in the guest's image"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GcsError(f"format {device} as {filesystem}: {error}") from error
    if done.returncode != 0:
        output = done.stdout[-_OUTPUT_SHOWN:].decode("utf-8", "replace").strip()
        raise GcsError(
            f"format {device}: `{' '.join(command)}` failed with status {done.returncode}: {output}"
        )


def _number(start: bytes, offset: int, size: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(start[offset : offset + size], order)


def _ext4_size(start: bytes) -> int:
    blocks = _number(start, 1024 + 4, 4, "little")
    if _number(start, 1024 + 0x60, 4, "little") & _EXT4_64BIT:
        blocks |= _number(start, 1024 + 0x150, 4, "little") << 32
    shift = _number(start, 1024 + 24, 4, "little")
    # Blocks have 1 to 64 KiB.
    return blocks << 10 << shift if shift <= 6 else 0


def _xfs_size(start: bytes) -> int:
    return _number(start, 8, 8, "big") * _number(start, 4, 4, "big")


def _erofs_size(start: bytes) -> int:
    shift = start[1024 + 12]
    return _number(start, 1024 + 36, 4, "little") << shift if 9 <= shift <= 16 else 0


def _squashfs_size(start: bytes) -> int:
    # The program that makes one fills its last 4 KiB up.
    return (_number(start, 40, 8, "little") + 4095) // 4096 * 4096


_EXT4_64BIT: Final = 0x80
_SIZES: Final[dict[str, Callable[[bytes], int]]] = {
    EXT4: _ext4_size,
    XFS: _xfs_size,
    "erofs": _erofs_size,
    "squashfs": _squashfs_size,
}


def _is_mbr(sector: bytes) -> bool:
    if sector[510:512] != b"\x55\xaa":
        return False
    # Boot sectors end in the same mark; a table has an entry with a type, and only sane states.
    entries = [sector[start : start + 16] for start in range(446, 510, 16)]
    return all(entry[0] in (0, 0x80) for entry in entries) and any(entry[4] for entry in entries)
