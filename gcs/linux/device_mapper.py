"""Device mapper: block devices made of others, by the ioctls of /dev/mapper/control (spec 5.7).

The kernel takes one buffer for each ioctl: a header of 312 bytes (`struct dm_ioctl`), and for a
table one `struct dm_target_spec` with its parameters for each target (linux/dm-ioctl.h).
"""

from __future__ import annotations

import os
import stat
from errno import EEXIST, ENODEV, ENOENT, ENXIO
from fcntl import ioctl as kernel_ioctl
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.linux.libc import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

#: Where the kernel's nodes are.
DIRECTORY: Final = "/dev/mapper"
#: Bytes of a sector, the unit of all tables.
SECTOR: Final = 512
#: Longest name of a device, in bytes: its field ends with a zero.
MAX_NAME: Final = 127

# version (3), size, start of the targets, their number, openers, flags, event, padding, device,
# name, uuid
_HEADER: Final = Struct("=6Ii3IQ128s129s7x")
# first sector, sectors, status, distance to the next target, type
_TARGET: Final = Struct("=QQiI16s")
_VERSION: Final = (4, 0, 0)

DM_VERSION: Final = 0
DM_DEV_CREATE: Final = 3
DM_DEV_REMOVE: Final = 4
DM_DEV_SUSPEND: Final = 6
DM_DEV_STATUS: Final = 7
DM_TABLE_LOAD: Final = 9
DM_TABLE_STATUS: Final = 12

DM_READONLY_FLAG: Final = 1 << 0
DM_SUSPEND_FLAG: Final = 1 << 1
DM_STATUS_TABLE_FLAG: Final = 1 << 4
DM_BUFFER_FULL_FLAG: Final = 1 << 8
DM_SECURE_DATA_FLAG: Final = 1 << 15
DM_DEFERRED_REMOVE: Final = 1 << 17

# A misc device with a fixed number; opening it loads the module.
_CONTROL_DEVICE: Final = os.makedev(10, 236)
_READ_WRITE: Final = 3
_STATUS_BYTES: Final = 16384


class Target(msgspec.Struct, frozen=True):
    """A run of sectors of a device, and what it is made of."""

    kind: str
    """Type of the target: "linear", "verity", "crypt", …"""
    sectors: int
    """Length in sectors of 512 bytes."""
    parameters: str
    """What the target's documentation says, separated by blanks."""
    start: int = 0
    """First sector of the device that it makes up."""


class Status(msgspec.Struct, frozen=True):
    """What the kernel says about a device."""

    device: int
    """Device number (`os.makedev`)."""
    openers: int
    """How often it is open, mounts included."""
    read_only: bool
    suspended: bool
    targets: int
    """Number of targets of its table."""


def encode(
    name: str, *, flags: int = 0, targets: Sequence[Target] = (), room: int = 0
) -> bytearray:
    """The buffer of one ioctl.

    name: of the device; "" where there is none.
    flags: DM_* flags.
    room: bytes to leave for an answer, beyond the header.

    Raises ValueError for a name that the kernel would cut, and for parameters with a zero byte.
    """
    encoded_name = os.fsencode(name)
    if len(encoded_name) > MAX_NAME or b"\0" in encoded_name or "/" in name:
        raise ValueError(f"{name!r} cannot be the name of a mapped device")
    body = b"".join(_encode_target(target) for target in targets)
    size = _HEADER.size + max(len(body), room)
    buffer = bytearray(size)
    _HEADER.pack_into(
        buffer, 0, *_VERSION, size, _HEADER.size, len(targets), 0, flags, 0, 0, 0, encoded_name, b""
    )
    buffer[_HEADER.size : _HEADER.size + len(body)] = body
    return buffer


def decode_status(buffer: bytes | bytearray) -> Status:
    """Read the header that an ioctl has answered with."""
    fields = _HEADER.unpack_from(buffer)
    flags = fields[7]
    return Status(
        device=fields[10],
        openers=fields[6],
        read_only=bool(flags & DM_READONLY_FLAG),
        suspended=bool(flags & DM_SUSPEND_FLAG),
        targets=fields[5],
    )


def decode_table(buffer: bytes | bytearray) -> list[Target]:
    """Read the targets that an ioctl has answered with.

    Raises ValueError when the answer did not fit, or is none.
    """
    fields = _HEADER.unpack_from(buffer)
    start, count, flags = fields[4], fields[5], fields[7]
    if flags & DM_BUFFER_FULL_FLAG:
        raise ValueError("the table of the mapped device is too long")
    targets = []
    offset = start
    for _ in range(count):
        if offset + _TARGET.size > len(buffer):
            raise ValueError("the table of the mapped device ends within a target")
        first, sectors, _status, following, kind = _TARGET.unpack_from(buffer, offset)
        text = bytes(buffer[offset + _TARGET.size : start + following]).partition(b"\0")[0]
        targets.append(Target(_text(kind), sectors, text.decode("ascii", "replace"), first))
        # Unlike in a table that is loaded, distances count from the first target.
        offset = start + following
    return targets


def operation_code(operation: int) -> int:
    """The number of an ioctl: read and write, 312 bytes, type 0xfd."""
    return _READ_WRITE << 30 | _HEADER.size << 16 | 0xFD << 8 | operation


class DeviceMapper:
    """The control device, open; a context manager that closes it.

    directory: that holds the control device; made where the module is not loaded yet.
    ioctl: issues the ioctls.

    Raises OSError naming the control device: ENODEV when the kernel has no device mapper.
    """

    def __init__(
        self,
        directory: str = DIRECTORY,
        *,
        ioctl: Callable[[int, int, bytearray], int] = kernel_ioctl,
    ) -> None:
        self._ioctl = ioctl
        self._descriptor = _open_control(f"{directory}/control")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def version(self) -> tuple[int, int, int]:
        """Version of the kernel's interface; OSError when it is not that of this module."""
        first, second, third = _HEADER.unpack_from(self._issue(DM_VERSION, encode("")))[:3]
        return first, second, third

    def create(self, name: str) -> int:
        """Make a device without a table; its number.  EBUSY when the name is taken."""
        return decode_status(self._issue(DM_DEV_CREATE, encode(name), name)).device

    def load(
        self, name: str, targets: Sequence[Target], *, read_only: bool, secret: bool = False
    ) -> None:
        """Give a device a table, which is used from `resume` on.

        secret: there is a key in it: neither the kernel nor this process keeps a copy.

        EINVAL when the kernel does not know a target or refuses its parameters; the kernel's log
        says why.
        """
        flags = DM_READONLY_FLAG if read_only else 0
        buffer = encode(name, flags=flags | secret * DM_SECURE_DATA_FLAG, targets=targets)
        try:
            self._issue(DM_TABLE_LOAD, buffer, name)
        finally:
            if secret:
                buffer[:] = bytes(len(buffer))

    def suspend(self, name: str) -> None:
        """Hold all reads and writes back until `resume`."""
        self._issue(DM_DEV_SUSPEND, encode(name, flags=DM_SUSPEND_FLAG), name)

    def resume(self, name: str) -> None:
        """Let the device work with the table that was loaded last."""
        self._issue(DM_DEV_SUSPEND, encode(name), name)

    def status(self, name: str) -> Status:
        """What the kernel knows of a device; ENXIO when there is none of this name."""
        return decode_status(self._issue(DM_DEV_STATUS, encode(name), name))

    def table(self, name: str) -> list[Target]:
        """The table in use, keys included; ENXIO when there is no device of this name."""
        buffer = encode(name, flags=DM_STATUS_TABLE_FLAG, room=_STATUS_BYTES)
        return decode_table(self._issue(DM_TABLE_STATUS, buffer, name))

    def remove(self, name: str, *, deferred: bool = False) -> None:
        """Remove a device.

        deferred: one that is open vanishes when it is closed; otherwise EBUSY.

        ENXIO when there is none of this name.
        """
        flags = DM_DEFERRED_REMOVE if deferred else 0
        self._issue(DM_DEV_REMOVE, encode(name, flags=flags), name)

    def _issue(self, operation: int, buffer: bytearray, name: str = "control") -> bytearray:
        try:
            self._ioctl(self._descriptor, operation_code(operation), buffer)
        except OSError as error:
            what = f"device mapper: {_OPERATIONS[operation]}"
            raise naming(error, what, name) from None
        return buffer


_OPERATIONS: Final = {
    DM_VERSION: "ask for the version",
    DM_DEV_CREATE: "make device",
    DM_DEV_REMOVE: "remove device",
    DM_DEV_SUSPEND: "suspend or resume device",
    DM_DEV_STATUS: "ask for the state of device",
    DM_TABLE_LOAD: "load the table of device",
    DM_TABLE_STATUS: "ask for the table of device",
}


def _encode_target(target: Target) -> bytes:
    parameters = target.parameters.encode("ascii")
    if b"\0" in parameters:
        raise ValueError(f"parameters of a {target.kind} target contain a zero byte")
    # At least one zero at the end, and a whole number of 8-byte words.
    size = (_TARGET.size + len(parameters) + 1 + 7) & ~7
    kind = target.kind.encode("ascii")
    head = _TARGET.pack(target.start, target.sectors, 0, size, kind)
    return (head + parameters).ljust(size, b"\0")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")


def _open_control(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != ENOENT:
            raise _no_device_mapper(error, path) from None
    # The module makes the node when it is loaded, and opening the node loads the module.
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.mknod(path, stat.S_IFCHR | 0o600, _CONTROL_DEVICE)
    except OSError as error:
        if error.errno != EEXIST:
            raise naming(error, "make device node", path) from None
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        os.unlink(path)
        raise _no_device_mapper(error, path) from None


def _no_device_mapper(error: OSError, path: str) -> OSError:
    if error.errno in (ENODEV, ENXIO):
        return OSError(error.errno, "the kernel has no device mapper (CONFIG_BLK_DEV_DM)", path)
    return naming(error, "open", path)
