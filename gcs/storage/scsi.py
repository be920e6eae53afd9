"""SCSI disks: from the host's controller number and LUN to a block device, and out again (5.2)."""

from __future__ import annotations

import os
import time
from errno import EBUSY, ENODEV, ENOENT, ENOTDIR, ENXIO
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from gcs.linux import uevent
from gcs.linux.mountinfo import read_mounts
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.trace import span
from gcs.storage.device_events import RECHECK, wait_for
from gcs.storage.driver import in_thread

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

T = TypeVar("T")

#: Instance GUIDs that Hyper-V gives to the controllers 0 to 3 on VMBus (spec 2.1).
VMBUS_CONTROLLERS: Final = (
    "df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
    "0110f83b-de10-5172-a266-78bca56bf50a",
    "b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
    "305891a9-b251-5dfe-91a2-c25d9212275b",
)
#: How long a disk may take to appear, in seconds; the host gives up a request after 300.
DISK_LIMIT: Final = 180.0
#: The same for a controller: they are there from the start, but a driver may be loading.
CONTROLLER_LIMIT: Final = 10.0

#: How long to wait for a file system that was just unmounted to let its disk go, in seconds.
BUSY_LIMIT: Final = 1.0
_BUSY_PAUSE: Final = 0.02

_ENOMEDIUM: Final = 123
_NOT_READY: Final = (ENOENT, ENXIO, ENODEV, _ENOMEDIUM)


class DiskAddress(msgspec.Struct, frozen=True):
    """Where the host attached a disk."""

    controller: int
    """Number of the controller as the host counts, 0 to 3."""
    lun: int
    partition: int = 0
    """Number of the partition; 0 is the whole disk."""

    def __str__(self) -> str:
        partition = f", partition {self.partition}" if self.partition else ""
        return f"disk at controller {self.controller}, LUN {self.lun}{partition}"


class ScsiBus:
    """The SCSI disks of the VM.

    root: directory that holds `sys` and `dev`.
    disk_limit, controller_limit: seconds to wait for what is not there yet.
    recheck, open_events: how to wait, see `device_events.wait_for`.
    """

    def __init__(
        self,
        *,
        root: str = "/",
        disk_limit: float = DISK_LIMIT,
        controller_limit: float = CONTROLLER_LIMIT,
        recheck: float = RECHECK,
        open_events: Callable[[], socket.socket] = uevent.open_socket,
    ) -> None:
        self._system = os.path.join(root, "sys")
        self._devices = os.path.join(root, "dev")
        self._disk_limit = disk_limit
        self._controller_limit = controller_limit
        self._recheck = recheck
        self._open_events = open_events

    async def find(self, address: DiskAddress) -> str:
        """The device node of a disk or partition; waits until it is there and can be read.

        Raises GcsError when the time limit passes, saying how far it came.
        """
        where = {"controller": address.controller, "lun": address.lun}
        with span("scsi::GetDevicePath", **where, partition=address.partition):
            return await self._find(address)

    async def _find(self, address: DiskAddress) -> str:
        host = await self._find_host(address.controller)
        search = _Search(self._system, self._devices, host, address)
        device = await self._wait(search.look, self._disk_limit)
        if device is None:
            raise GcsError(
                f"{address} did not appear within {self._disk_limit:g} s: {search.reason}; "
                "check that the host attached it there"
            )
        return device

    async def eject(self, address: DiskAddress) -> None:
        """Remove a disk from the guest, so that the host can detach it (spec 3.2).

        One that is not there is fine.

        Raises GcsError when a file system on it is still mounted, or still in use though it is not
        mounted any more, and when the kernel refuses.
        """
        with span("scsi::UnplugDevice", controller=address.controller, lun=address.lun):
            _check_controller(address.controller)
            host = await in_thread(self._look_for_host, address.controller)
            if host is not None:
                await in_thread(self._eject, host, address)

    async def _find_host(self, controller: int) -> int:
        _check_controller(controller)
        host = await self._wait(lambda: self._look_for_host(controller), self._controller_limit)
        if host is None:
            raise GcsError(
                f"SCSI controller {controller} did not appear within {self._controller_limit:g} s: "
                f"{self._describe_controllers(controller)}"
            )
        return host

    async def _wait(self, look: Callable[[], T | None], limit: float) -> T | None:
        return await wait_for(
            look, limit=limit, recheck=self._recheck, open_events=self._open_events
        )

    def _look_for_host(self, controller: int) -> int | None:
        """Number of the SCSI host that is the controller, or None."""
        vmbus = f"{self._system}/bus/vmbus/devices"
        if _entries(vmbus):
            names = _entries(f"{vmbus}/{VMBUS_CONTROLLERS[controller]}")
            hosts = [int(name[4:]) for name in names if name[:4] == "host" and name[4:].isdigit()]
        else:
            hosts = self._virtio_hosts()[controller : controller + 1]
        return hosts[0] if hosts else None

    def _virtio_hosts(self) -> list[int]:
        """Numbers of the virtio-scsi hosts, in the order of their places on the PCI bus.

        Numbers are given in the order in which drivers get ready, which may change between boots.
        """
        found = []
        directory = f"{self._system}/class/scsi_host"
        for name in _entries(directory):
            if _read(f"{directory}/{name}/proc_name") == "virtio_scsi":
                place = os.path.realpath(f"{directory}/{name}").partition("/virtio")[0]
                found.append((place, int(name.removeprefix("host"))))
        return [number for _, number in sorted(found)]

    def _describe_controllers(self, controller: int) -> str:
        vmbus = f"{self._system}/bus/vmbus/devices"
        if _entries(vmbus):
            return f"no {VMBUS_CONTROLLERS[controller]} with a SCSI host in {vmbus}"
        return f"the VM has {len(self._virtio_hosts())} virtio-scsi controllers"

    def _eject(self, host: int, address: DiskAddress) -> None:
        device = f"{self._system}/bus/scsi/devices/{host}:0:0:{address.lun}"
        numbers = _block_numbers(f"{device}/block")
        mounted = [entry.target for entry in read_mounts() if entry.device in numbers]
        if mounted:
            raise GcsError(f"eject {address}: still mounted at {', '.join(mounted[:5])}")
        if holders := self._holders(f"{device}/block"):
            raise GcsError(f"eject {address}: still a part of {', '.join(holders[:5])}")
        for disk in _entries(f"{device}/block"):
            self._require_free(f"{self._devices}/{disk}", address)
        try:
            # The kernel refuses to open it for anything else than writing.
            descriptor = os.open(f"{device}/delete", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"1\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (ENOENT, ENODEV, ENXIO):
                raise GcsError(f"eject {address}: {error_text(error)}") from error

    def _require_free(self, node: str, address: DiskAddress) -> None:
        """Raise GcsError while the kernel uses a disk, or a partition of it, for a file system.

        Mounts are not all that does: an overlay keeps file systems that are not mounted any more,
        and a container may see what nobody else sees.
        """
        deadline = time.monotonic() + BUSY_LIMIT
        while True:
            try:
                # With O_EXCL, and no O_CREAT: as the only one who has a claim on the device.
                os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != EBUSY:
                    return  # it is gone already, or broken: nobody can make use of it
                if time.monotonic() >= deadline:
                    raise GcsError(
                        f"eject {address}: {node} is unmounted, but still in use by a container, "
                        "or by a root file system that is made of it; remove that first"
                    ) from None
            else:
                return
            time.sleep(_BUSY_PAUSE)

    def _holders(self, block: str) -> list[str]:
        """Names of the mapped devices that are made of a disk in a `block` directory."""
        return [
            _read(f"{self._system}/block/{holder}/dm/name") or holder
            for place in _disks_and_partitions(block)
            for holder in _entries(f"{block}/{place}/holders")
        ]


class _Search:
    """One search for a disk; remembers why the last look was in vain."""

    def __init__(self, system: str, devices: str, host: int, address: DiskAddress) -> None:
        self._block = f"{system}/bus/scsi/devices/{host}:0:0:{address.lun}/block"
        self._devices = devices
        self._address = address
        self.reason = ""

    def look(self) -> str | None:
        """The device node, or None."""
        disks = _entries(self._block)
        if not disks:
            self.reason = f"nothing at {self._block}"
            return None
        if len(disks) > 1:
            raise GcsError(
                f"more than one block device could match {self._address}: {', '.join(disks)}"
            )
        name = disks[0] if not self._address.partition else self._find_partition(disks[0])
        if name is None:
            return None
        node = f"{self._devices}/{name}"
        return node if self._is_ready(node) else None

    def _find_partition(self, disk: str) -> str | None:
        directory = f"{self._block}/{disk}"
        partitions = {
            number: name
            for name in _entries(directory)
            if (number := _read(f"{directory}/{name}/partition"))
        }
        found = partitions.get(str(self._address.partition))
        if found is None:
            present = ", ".join(sorted(partitions.values())) or "no partition"
            self.reason = f"{disk} has {present}"
        return found

    def _is_ready(self, node: str) -> bool:
        # A node can be there before the disk answers, and a disk can answer before it has a size.
        try:
            descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in _NOT_READY:
                raise GcsError(f"{self._address}: open {error_text(error)}") from error
            self.reason = f"{node} cannot be opened: {error.strerror}"
            return False
        self.reason = f"{node} has size 0"
        return size > 0


def _check_controller(controller: int) -> None:
    if not 0 <= controller < len(VMBUS_CONTROLLERS):
        raise GcsError(
            f"SCSI controller {controller} does not exist; "
            f"controllers are 0 to {len(VMBUS_CONTROLLERS) - 1}"
        )


def _block_numbers(block: str) -> set[str]:
    """`major:minor` of the disk in a `block` directory and of its partitions."""
    return {_read(f"{block}/{place}/dev") for place in _disks_and_partitions(block)} - {""}


def _disks_and_partitions(block: str) -> list[str]:
    """Directories of the disk in a `block` directory, and of all that may be a partition of it."""
    places = []
    for disk in _entries(block):
        places += [disk, *(f"{disk}/{name}" for name in _entries(f"{block}/{disk}"))]
    return places


def _entries(directory: str) -> list[str]:
    """Sorted names in a directory; none when it does not exist."""
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ENODEV):
            raise
        return []


def _read(path: str) -> str:
    """Content of an attribute without surrounding blanks; "" when it does not exist."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ENODEV):
            raise
        return ""
