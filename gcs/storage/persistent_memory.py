"""Resource `VPMemDevice`: a layer in a persistent memory device, or in a part of one (spec 3.5)."""

from __future__ import annotations

import os
import subprocess  # costs nothing: asyncio has imported it
from contextlib import ExitStack
from errno import EINVAL, ENODEV, ENOENT, ENOTSUP, ENXIO
from logging import getLogger
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.linux import uevent
from gcs.linux.device_mapper import SECTOR, Target
from gcs.linux.mount import MS_RDONLY
from gcs.linux.oom import run_helper
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.settings import VPMemDevice
from gcs.protocol.trace import span
from gcs.storage import filesystem
from gcs.storage.combined_roots import CombinedRoots
from gcs.storage.device_events import RECHECK, wait_for
from gcs.storage.driver import PathLocks, ResourceDriver, in_thread
from gcs.storage.layered_disk import make_verified, unmap_device
from gcs.storage.mapped_devices import MappedDevices, try_remove
from gcs.storage.mounts import KernelMounts, is_mounted, require_unmounted, unmount_path
from gcs.storage.paths import checked_mount_point, checked_target, make_directories
from gcs.storage.verity import corruption_hint

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gcs.storage.mapped_devices import MapperSystem
    from gcs.storage.mounts import MountSystem

logger = getLogger(__name__)

#: How long a device may take to appear, in seconds; the host gives up a request after 300.
DEVICE_LIMIT: Final = 180.0

# Real hosts' kernels have these built in; on others nobody loads them when the device appears.
_MODULES: Final = ("nfit", "virtio_pmem", "nd_pmem")
_NOT_READY: Final = (ENOENT, ENXIO, ENODEV)
_DAX_REFUSED: Final = (EINVAL, ENOTSUP)


class MappedMemory(msgspec.Struct, frozen=True):
    """What an Add did."""

    settings: VPMemDevice
    mappings: tuple[str, ...]
    """Names of the mapped devices, in the order in which they were made."""


class PersistentMemoryDriver(ResourceDriver[VPMemDevice]):
    """Mounts persistent memory, read-only.

    system: mounts it.
    mapper: makes mapped devices, for parts of a device and for checked layers.
    roots: what may be made of the layers.
    root: directory that holds `sys` and `dev`.
    limit: seconds to wait for a device.
    recheck, open_events: how to wait, see `device_events.wait_for`.
    load_modules: called when a device is not there at once.
    """

    def __init__(
        self,
        system: MountSystem | None = None,
        mapper: MapperSystem | None = None,
        *,
        roots: CombinedRoots | None = None,
        root: str = "/",
        limit: float = DEVICE_LIMIT,
        recheck: float = RECHECK,
        open_events: Callable[[], socket.socket] = uevent.open_socket,
        load_modules: Callable[[], None] | None = None,
    ) -> None:
        self._system: MountSystem = KernelMounts() if system is None else system
        self._mapper: MapperSystem = MappedDevices() if mapper is None else mapper
        self._roots = CombinedRoots() if roots is None else roots
        self._root = root
        self._limit = limit
        self._recheck = recheck
        self._open_events = open_events
        self._load_modules = _load_modules if load_modules is None else load_modules
        self._locks = PathLocks()
        #: Mount path, free of symbolic links → what is there.
        self.devices: dict[str, MappedMemory] = {}

    async def add(self, settings: VPMemDevice) -> None:
        """Wait for the device, then mount it, with direct access to its memory where that works.

        The same settings a second time change nothing.

        Raises GcsError when the device does not come, when the part of it that was asked for does
        not exist, when it holds no file system or not the layer that was asked for, and when the
        mount path is taken.  Nothing is left behind then.
        """
        with span("pmem::Mount", deviceNumber=settings.device_number, target=settings.mount_path):
            path = checked_mount_point(settings.mount_path, "MountPath")
            async with self._locks.of(path):
                known = self.devices.get(path)
                is_known = known is not None and known.settings == settings
                if is_known and is_mounted(self._system, path):
                    return
                require_unmounted(self._system, path)
                device = await self._find(settings.device_number, path)
                try:
                    await in_thread(self._attach, path, settings, device)
                except OSError as error:
                    text = f"persistent memory {device} on {path}: {error_text(error)}"
                    hint = corruption_hint(error) if _digest(settings) else ""
                    raise GcsError(text + hint) from error
                except GcsError as error:
                    text = f"persistent memory {device} on {path}: {error}"
                    raise GcsError(text, hresult=error.hresult) from error

    async def remove(self, settings: VPMemDevice) -> None:
        """Unmount it and remove its mapped devices; one that is not there is fine.

        Raises GcsError when it is in use, also by a root file system that is made of it.
        """
        with span("pmem::Unmount", device=settings.device_number, target=settings.mount_path):
            path = checked_target(settings.mount_path, "MountPath")
            async with self._locks.of(path):
                await in_thread(self._detach, path, settings.device_number)
                self.devices.pop(path, None)

    async def _find(self, number: int, path: str) -> str:
        """The device node; waits until it is there and has a size."""
        node = os.path.join(self._root, f"dev/pmem{number}")
        if not await in_thread(_is_ready, node):
            await in_thread(self._load_modules)
        found = await wait_for(
            lambda: node if _is_ready(node) else None,
            limit=self._limit,
            recheck=self._recheck,
            open_events=self._open_events,
        )
        if found is None:
            raise GcsError(
                f"{path}: persistent memory device {number} did not appear within "
                f"{self._limit:g} s as {node}; check that the host attached it"
            )
        return found

    def _attach(self, path: str, settings: VPMemDevice, device: str) -> None:
        former = self.devices.pop(path, None)
        if former is not None:
            # Somebody else has unmounted it.
            unmap_device(self._mapper, former.mappings)
        place = f"pmem{settings.device_number}"
        names = []
        with ExitStack() as undo:
            source = device
            if settings.mapping_info is not None:
                source, name = self._make_part(device, place, settings, undo)
                names.append(name)
            if digest := _digest(settings):
                source, name = make_verified(self._mapper, source, place, digest, undo)
                names.append(name)
            kind = _require_filesystem(source)
            make_directories(self._system, path, 0o700, undo)
            self._mount(source, path, kind)
            self.devices[path] = MappedMemory(settings, tuple(names))
            undo.pop_all()

    def _make_part(
        self, device: str, place: str, settings: VPMemDevice, undo: ExitStack
    ) -> tuple[str, str]:
        """Make a device of a part of the memory; its node and name."""
        assert settings.mapping_info is not None
        offset = settings.mapping_info.device_offset_in_bytes
        size = settings.mapping_info.device_size_in_bytes
        available = _size(device)
        if offset < 0 or size <= 0 or offset % SECTOR or size % SECTOR:
            raise GcsError(f"{device}: a part of {size} bytes at {offset} has no whole sectors")
        if offset + size > available:
            raise GcsError(
                f"{device} has {available} bytes; a part of {size} bytes at {offset} is beyond"
            )
        target = Target("linear", size // SECTOR, f"{device} {offset // SECTOR}")
        name = f"dm-linear-{place}-{offset}-{size}"
        with span(
            "devicemapper::CreateZeroSectorLinearTarget",
            devicePath=device,
            deviceStart=offset,
            sectorSize=size,
            linearTable=f"{name}: '0 {target.sectors} {target.parameters}'",
        ):
            node = self._mapper.create(name, [target], read_only=True)
        undo.callback(try_remove, self._mapper, name)
        return node, name

    def _mount(self, source: str, path: str, kind: str) -> None:
        data = filesystem.read_only_data(kind)
        direct = filesystem.direct_access_data(kind)
        if direct and self._has_direct_access(source):
            try:
                both = ",".join(filter(None, (data, direct)))
                self._system.mount(source, path, kind, MS_RDONLY, both)
            except OSError as error:
                # Its blocks may have another size than pages.
                if error.errno not in _DAX_REFUSED:
                    raise
                logger.info("%s is mounted without direct access: %s", path, error_text(error))
            else:
                return
        self._system.mount(source, path, kind, MS_RDONLY, data)

    def _has_direct_access(self, source: str) -> bool:
        number = os.stat(source).st_rdev
        block = f"sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/dax"
        try:
            with open(os.path.join(self._root, block), encoding="ascii") as file:
                return file.read().strip() == "1"
        except FileNotFoundError:
            return False

    def _detach(self, path: str, number: int) -> None:
        self._roots.require_unused(self._system, path, f"persistent memory device {number}")
        unmount_path(self._system, path)
        known = self.devices.get(path)
        if known is not None:
            try:
                unmap_device(self._mapper, known.mappings)
            except OSError as error:
                text = f"{path} is unmounted, but its memory is not free: {error_text(error)}"
                raise GcsError(text) from error


def _digest(settings: VPMemDevice) -> str:
    return "" if settings.verity_info is None else settings.verity_info.root_digest


def _require_filesystem(device: str) -> str:
    kind = filesystem.detect(device)
    if not filesystem.is_mountable(kind):
        raise GcsError(f"{device} holds {kind or 'no file system that is known'}")
    return kind


def _size(device: str) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _is_ready(node: str) -> bool:
    try:
        return _size(node) > 0
    except OSError as error:
        if error.errno not in _NOT_READY:
            raise GcsError(f"open {error_text(error)}") from error
        return False


def _load_modules() -> None:
    """Load the drivers of persistent memory, if they are modules of this kernel."""
    command = ("modprobe", "-a", "-q", *_MODULES)
    try:
        run_helper(command, limit=60.0)
    except FileNotFoundError:
        return  # a base without modules
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GcsError(f"load the drivers of persistent memory: {error}") from error
