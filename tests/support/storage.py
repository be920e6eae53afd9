"""What the tests of storage share: a double that records mounts, and a made-up /sys and /dev."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from gcs.linux.mount import MS_PRIVATE, MS_REMOUNT, MS_SHARED, MS_SLAVE, MS_UNBINDABLE
from gcs.linux.syscalls import Linux
from gcs.storage.scsi import VMBUS_CONTROLLERS, ScsiBus

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

MIB = 1 << 20
_CHANGES = MS_REMOUNT | MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE


class RecordingMounts(Linux):
    """Pretends to mount: records calls, keeps a table of mounts, fails where told to.

    Directories and links are real ones.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.table: list[str] = []
        #: Target of a mount, or flags of a change to one, that fails → error number.
        self.failures: dict[str | int, int] = {}
        #: Targets in use, which do not let themselves be unmounted.
        self.busy: set[str] = set()
        #: Directories that cannot be made → error number.
        self.unmade: dict[str, int] = {}

    def make_directory(self, path: str, mode: int = 0o777) -> None:
        if path in self.unmade:
            number = self.unmade[path]
            raise OSError(number, os.strerror(number), path)
        super().make_directory(path, mode)

    def mount(
        self, source: str, target: str, filesystem: str, flags: int = 0, data: str = ""
    ) -> None:
        self.calls.append(("mount", source, target, filesystem, flags, data))
        self._fail(target if filesystem else flags, target)
        if not flags & _CHANGES:
            self.table.append(target)

    def mount_overlay(self, target: str, layers: Sequence[str], upper: str, work: str) -> None:
        self.calls.append(("overlay", target, list(layers), upper, work))
        self._fail(target, target)
        self.table.append(target)

    def unmount(self, target: str, flags: int = 0) -> None:
        self.calls.append(("unmount", target))
        if target not in self.table:
            raise OSError(errno.EINVAL, "unmount: Invalid argument", target)
        if target in self.busy:
            raise OSError(errno.EBUSY, "unmount: Device or resource busy", target)
        del self.table[len(self.table) - 1 - self.table[::-1].index(target)]

    def mounts_under(self, path: str) -> list[str]:
        return [place for place in reversed(self.table) if f"{place}/".startswith(f"{path}/")]

    def mount_calls(self) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == "mount"]

    def _fail(self, key: str | int, path: str) -> None:
        if key in self.failures:
            number = self.failures[key]
            raise OSError(number, f"mount: {os.strerror(number)}", path)


class SystemTree:
    """Just enough of /sys and /dev to find SCSI disks in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys").mkdir(parents=True)
        (root / "dev").mkdir()

    def bus(
        self, *, limit: float = 30.0, open_events: Callable[[], socket.socket] | None = None
    ) -> ScsiBus:
        """A bus that waits `limit` seconds; with `open_events`, for events alone."""
        if open_events is None:
            return ScsiBus(root=str(self.root), disk_limit=limit, controller_limit=limit)
        return ScsiBus(
            root=str(self.root),
            disk_limit=limit,
            controller_limit=limit,
            recheck=3600,
            open_events=open_events,
        )

    def add_vmbus_host(self, controller: int, number: int) -> None:
        guid = VMBUS_CONTROLLERS[controller]
        (self.root / f"sys/bus/vmbus/devices/{guid}/host{number}").mkdir(parents=True)

    def add_pci_host(self, slot: int, number: int, driver: str = "virtio_scsi") -> None:
        device = self.root / f"sys/devices/pci0000:00/0000:00:{slot:02x}.0"
        place = device / f"virtio{number}" / f"host{number}/scsi_host/host{number}"
        place.mkdir(parents=True)
        (place / "proc_name").write_text(f"{driver}\n")
        hosts = self.root / "sys/class/scsi_host"
        hosts.mkdir(parents=True, exist_ok=True)
        (hosts / f"host{number}").symlink_to(place)

    def add_disk(self, host: int, lun: int, name: str, *, number: str = "259:9999") -> Path:
        """Announce a disk in /sys; the result is its node, which is not there yet."""
        device = self.root / f"sys/bus/scsi/devices/{host}:0:0:{lun}"
        (device / "block" / name).mkdir(parents=True)
        (device / "block" / name / "dev").write_text(f"{number}\n")
        (device / "delete").write_text("")
        return self.root / "dev" / name

    def add_partition(self, host: int, lun: int, disk: str, number: int) -> Path:
        name = f"{disk}{number}"
        place = self.root / f"sys/bus/scsi/devices/{host}:0:0:{lun}/block/{disk}/{name}"
        place.mkdir()
        (place / "partition").write_text(f"{number}\n")
        (place / "dev").write_text("259:9998\n")
        return self.root / "dev" / name


def exists(path: str) -> bool:
    """Whether there is anything at a path, be it a broken link."""
    return os.path.lexists(path)


def blank(node: Path, size: int = MIB) -> Path:
    """Make a node, as a sparse file of `size` bytes."""
    with node.open("wb") as file:
        file.truncate(size)
    return node


def with_magic(node: Path, offset: int, content: bytes, size: int = MIB) -> Path:
    """Make a node with some content at an offset."""
    blank(node, size)
    with node.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    return node


def with_ext4(node: Path) -> Path:
    """Make a node that has the mark of ext4, and nothing more of it."""
    return with_magic(node, 1080, b"\x53\xef")
