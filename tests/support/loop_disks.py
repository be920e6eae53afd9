"""Real disks for the tests of storage: image files behind loop devices."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from gcs.linux.mount import MNT_DETACH, unmount
from gcs.linux.mountinfo import read_mounts
from gcs.protocol.settings import MappedVirtualDisk
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.combined_roots import CombinedRoots
from gcs.storage.scsi_device import ScsiDeviceDriver
from gcs.storage.virtual_disk import VirtualDiskDriver
from tests.support.storage import MIB, SystemTree, blank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# mkfs.xfs refuses smaller ones.
XFS_SIZE = 300 * MIB
EXT4_SIZE = 8 * MIB


def mounts_below(directory: Path) -> list[str]:
    """What is mounted at or below a directory, in the order in which it was mounted."""
    targets = (entry.target for entry in read_mounts())
    return [target for target in targets if f"{target}/".startswith(f"{directory}/")]


@contextlib.contextmanager
def nothing_left_mounted(directory: Path) -> Iterator[None]:
    """Fail when the block leaves a mount below a directory; remove it then, too."""
    try:
        yield
    finally:
        left = mounts_below(directory)
        for target in reversed(left):
            unmount(target, MNT_DETACH)
    assert left == []


class Guest:
    """Storage drivers at work on loop devices, which a made-up /sys calls SCSI disks.

    Attributes:
        directory: Where everything happens.
    """

    def __init__(self, directory: Path, undo: contextlib.ExitStack) -> None:
        self.directory = directory
        self._undo = undo
        self._tree = SystemTree(directory / "root")
        self._tree.add_pci_host(slot=3, number=0)
        bus = self._tree.bus()
        roots = CombinedRoots()
        self.disks = VirtualDiskDriver(bus, roots=roots)
        self.ejector = ScsiDeviceDriver(bus)
        self.layers = CombinedLayersDriver(roots=roots)

    def plug(self, lun: int, image: Path) -> str:
        """Attach an image as a disk; the result is its real device."""
        device, number = self._attach(image)
        self._tree.add_disk(0, lun, f"sd{lun}", number=number).symlink_to(device)
        return device

    def plug_partition(self, lun: int, number: int, image: Path, offset: int) -> None:
        """Show the part of an image from `offset` on as a partition of a plugged disk."""
        device, _ = self._attach(image, "--offset", str(offset))
        self._tree.add_partition(0, lun, f"sd{lun}", number).symlink_to(device)

    def _attach(self, image: Path, *options: str) -> tuple[str, str]:
        device = run("losetup", "--find", "--show", *options, str(image)).strip()
        self._undo.callback(run, "losetup", "--detach", device)
        with open(f"/sys/block/{os.path.basename(device)}/dev", encoding="ascii") as file:
            return device, file.read().strip()

    def was_ejected(self, lun: int) -> bool:
        """Whether the kernel was asked to delete the disk."""
        path = self.directory / f"root/sys/bus/scsi/devices/0:0:0:{lun}/delete"
        with path.open("rb") as file:
            return file.read() == b"1\n"

    def disk(self, lun: int, name: str, *, read_only: bool = False) -> MappedVirtualDisk:
        """Settings for the disk at a path below the directory."""
        return MappedVirtualDisk(
            mount_path=str(self.directory / name), lun=lun, read_only=read_only
        )


def run(*command: str) -> str:
    """Run a program that has to succeed; the result is its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def process_in(directory: str) -> Iterator[int]:
    """The pid of a process `cat` that works in a directory until the block ends."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=directory) as process:
        yield process.pid
        process.communicate()


def ext4_image(path: Path, files: dict[str, str]) -> Path:
    """An image with an ext4 file system that has some files."""
    content = path.with_suffix(".d")
    content.mkdir()
    for name, text in files.items():
        (content / name).write_text(text)
    blank(path, EXT4_SIZE)
    run("mkfs.ext4", "-q", "-d", str(content), str(path))
    return path
