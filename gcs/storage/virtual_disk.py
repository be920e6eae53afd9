"""Resource `MappedVirtualDisk`: a SCSI disk, mounted or shown as a block device (spec 3.3)."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from errno import EINVAL
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.linux.mount import (
    MS_BIND,
    MS_MOVE,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    parse_mount_options,
)
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.settings import MappedVirtualDisk
from gcs.protocol.trace import span
from gcs.storage import filesystem
from gcs.storage.combined_roots import CombinedRoots
from gcs.storage.driver import PathLocks, ResourceDriver, in_thread
from gcs.storage.layered_disk import (
    is_verified,
    map_device,
    require_sensible,
    unmap_device,
)
from gcs.storage.mapped_devices import MappedDevices
from gcs.storage.mounts import (
    KernelMounts,
    is_mounted,
    require_unmounted,
    try_unmount,
    unmount_path,
)
from gcs.storage.paths import checked_mount_point, checked_target, make_directories
from gcs.storage.scsi import DiskAddress
from gcs.storage.verity import corruption_hint

if TYPE_CHECKING:
    from gcs.storage.mapped_devices import MapperSystem
    from gcs.storage.mounts import MountSystem
    from gcs.storage.scsi import ScsiBus

#: A whole Add ends within this time, in seconds; the host gives up after 300.
ADD_LIMIT: Final = 235.0

_PROPAGATION: Final = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE
# Options of OCI mounts that say how a container gets at the disk, not how the disk is mounted.
_NOT_FOR_DISKS: Final = _PROPAGATION | MS_BIND | MS_REC | MS_REMOUNT | MS_MOVE


class MappedDisk(msgspec.Struct, frozen=True):
    """What an Add did: a Remove repeats only a part of the settings (spec 2.6)."""

    settings: MappedVirtualDisk
    address: DiskAddress
    device: str
    """Device node that was mounted or linked to."""
    mappings: tuple[str, ...] = ()
    """Names of the mapped devices that it is made of, in the order in which they were made."""


class VirtualDiskDriver(ResourceDriver[MappedVirtualDisk]):
    """Mounts SCSI disks.

    bus: finds the disks.
    system: mounts them.
    mapper: makes mapped devices, for disks that are encrypted or checked.
    roots: what may be made of the disks.
    limit: seconds that an Add may take altogether.
    """

    def __init__(
        self,
        bus: ScsiBus,
        system: MountSystem | None = None,
        mapper: MapperSystem | None = None,
        *,
        roots: CombinedRoots | None = None,
        limit: float = ADD_LIMIT,
    ) -> None:
        self._bus = bus
        self._roots = CombinedRoots() if roots is None else roots
        self._mapper: MapperSystem = MappedDevices() if mapper is None else mapper
        self._system: MountSystem = KernelMounts() if system is None else system
        self._limit = limit
        self._locks = PathLocks()
        #: Mount path, free of symbolic links → what is there.
        self.disks: dict[str, MappedDisk] = {}

    async def add(self, settings: MappedVirtualDisk) -> None:
        """Wait for the disk, then mount it or link to it, as the settings say.

        The same settings a second time change nothing.

        Raises GcsError when the disk does not come, holds something else than what was asked for,
        or cannot be mounted, and when the mount path is taken.
        """
        with span("scsi::Mount", **_attributes(settings)):
            await self._add(settings)

    async def remove(self, settings: MappedVirtualDisk) -> None:
        """Unmount the disk, or remove the link to it; one that is not there is fine.

        Raises GcsError when it is in use, also by a root file system that is made of it.
        """
        with span("scsi::Unmount", **_attributes(settings)):
            await self._remove(settings)

    async def _add(self, settings: MappedVirtualDisk) -> None:
        deadline = asyncio.get_running_loop().time() + self._limit
        address = DiskAddress(settings.controller, settings.lun, settings.partition)
        if not settings.mount_path:
            await self._bus.find(address)
            return
        checked = checked_target if settings.block_dev else checked_mount_point
        path = checked(settings.mount_path, "MountPath")
        require_sensible(settings, f"{address} on {path}")
        async with self._locks.of(path):
            if await in_thread(self._is_there, path, settings):
                return
            device = await self._find(address, path)
            left = deadline - asyncio.get_running_loop().time()
            try:
                await in_thread(self._attach, path, settings, address, device, left)
            except OSError as error:
                text = f"{address} ({device}) on {path}: {error_text(error)}"
                raise GcsError(text + _hint(error, verified=is_verified(settings))) from error
            except GcsError as error:
                text = f"{address} on {path}: {error}"
                raise GcsError(text, hresult=error.hresult) from error

    def _attach(
        self,
        path: str,
        settings: MappedVirtualDisk,
        address: DiskAddress,
        device: str,
        limit: float,
    ) -> None:
        """Make what is asked for out of a disk; in a thread, since all of it blocks."""
        former = self.disks.pop(path, None)
        if former is not None:
            # Somebody else has unmounted it.
            unmap_device(self._mapper, former.mappings)
        place = f"scsi-contr{address.controller}-lun{address.lun}-p{address.partition}"
        with ExitStack() as undo:
            source, mappings = map_device(self._mapper, device, place, settings, undo)
            disk = MappedDisk(settings, address, source, tuple(mappings))
            if settings.block_dev:
                self._link(path, disk, undo)
            else:
                kind = _prepare(settings, source, limit)
                self._mount(path, disk, kind, undo)
            self.disks[path] = disk
            undo.pop_all()

    async def _remove(self, settings: MappedVirtualDisk) -> None:
        if not settings.mount_path:
            return
        path = checked_target(settings.mount_path, "MountPath")
        async with self._locks.of(path):
            await in_thread(self._detach, path, self.disks.get(path))
            self.disks.pop(path, None)

    async def _find(self, address: DiskAddress, path: str) -> str:
        try:
            return await self._bus.find(address)
        except GcsError as error:
            raise GcsError(f"{path}: {error}") from error

    def _is_there(self, path: str, settings: MappedVirtualDisk) -> bool:
        """Whether a former Add did all this; GcsError when the place is taken by something else."""
        known = self.disks.get(path)
        if known is not None and known.settings == settings:
            if settings.block_dev and os.path.islink(path):
                return os.readlink(path) == known.device
            if is_mounted(self._system, path):
                return True
        if not settings.block_dev:
            require_unmounted(self._system, path)
        elif os.path.lexists(path):
            raise GcsError(f"block device link {path}: something is there already; remove it first")
        return False

    def _link(self, path: str, disk: MappedDisk, undo: ExitStack) -> None:
        make_directories(self._system, os.path.dirname(path), 0o700, undo)
        self._system.make_symlink(path, disk.device)

    def _mount(self, path: str, disk: MappedDisk, kind: str, undo: ExitStack) -> None:
        options = disk.settings.options
        flags, data = parse_mount_options(options)
        flags &= ~_NOT_FOR_DISKS
        if disk.settings.read_only:
            flags |= MS_RDONLY
            data = ",".join(filter(None, (filesystem.read_only_data(kind), data)))
        make_directories(self._system, path, 0o700, undo)
        self._system.mount(disk.device, path, kind, flags, data)
        undo.callback(try_unmount, self._system, path)
        for propagation in _propagation_changes(options):
            self._system.mount("none", path, "", propagation)

    def _detach(self, path: str, disk: MappedDisk | None) -> None:
        # Nothing is ever mounted on a link, so a link is one to a block device.
        if not os.path.islink(path):
            self._roots.require_unused(self._system, path, _what(disk))
            unmount_path(self._system, path)
        else:
            try:
                os.unlink(path)
            except OSError as error:
                raise GcsError(f"remove block device link: {error_text(error)}") from error
        if disk is not None:
            try:
                unmap_device(self._mapper, disk.mappings)
            except OSError as error:
                text = f"{path} is unmounted, but {disk.address} is not free: {error_text(error)}"
                raise GcsError(text) from error


def _what(disk: MappedDisk | None) -> str:
    return "no disk of the agent's" if disk is None else str(disk.address)


def _attributes(settings: MappedVirtualDisk) -> dict[str, object]:
    """What a span says about a disk."""
    return {
        "controller": settings.controller,
        "lun": settings.lun,
        "partition": settings.partition,
        "target": settings.mount_path,
    }


def _prepare(settings: MappedVirtualDisk, device: str, limit: float) -> str:
    """The type to mount the device as, after making a file system if that was asked for."""
    wanted = settings.filesystem
    # What an encrypted disk held before can't be read any more.
    found = "" if settings.encrypted else filesystem.detect(device)
    if settings.ensure_filesystem and not found:
        filesystem.make_filesystem(device, wanted, limit=limit)
        return wanted
    return _type_to_mount(settings, device, found)


def _type_to_mount(settings: MappedVirtualDisk, device: str, found: str) -> str:
    wanted = settings.filesystem
    if found and not filesystem.is_mountable(found):
        hint = "; give its Partition" if found == "partition table" else ""
        raise GcsError(f"device {device} holds no file system but {found}{hint}")
    if not found and not wanted:
        raise GcsError(f"device {device} holds no file system that is known; give its Filesystem")
    if not found or not wanted or found == wanted:
        return found or wanted
    if settings.ensure_filesystem or not settings.read_only:
        raise GcsError(
            f"device {device} holds {found} where {wanted} was asked for; nothing was changed, "
            "so that no data is lost: give the right Filesystem, or erase the disk first"
        )
    # The host calls every layer ext4, whatever image it is.
    return found


def _propagation_changes(options: list[str]) -> list[int]:
    """Flags for a mount(2) of their own each, in the order of the options."""
    changes = []
    for option in ",".join(options).split(","):
        flags, _ = parse_mount_options([option])
        if flags & _PROPAGATION:
            changes.append(flags)
    return changes


def _hint(error: OSError, *, verified: bool) -> str:
    if verified:
        return corruption_hint(error)
    if error.errno == EINVAL:
        return "; the file system may be damaged, or an option unknown: see the kernel's log"
    return ""
