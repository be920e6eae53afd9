"""A VM to plug disks and persistent memory into, as a host does, and what may be left in it."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from gcs.protocol.errors import RemoteError
from gcs.protocol.settings import ADD, REMOVE, MappedVirtualDisk, ScsiDevice
from uvm.boot import BootOptions, build_machine
from uvm.utility_vm import UtilityVm
from uvm.vm.machine import Disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gcs.protocol.message import Message

DISK, PMEM, LAYERS, SCSI = "MappedVirtualDisk", "VPMemDevice", "CombinedLayers", "SCSIDevice"

#: Mounts, mapped devices, links and directories of mounts.
INVENTORY = r"""
sed 's/^[0-9]* [0-9]* [0-9:]* /mount /' /proc/1/mountinfo
for d in /sys/block/dm-*; do [ -e $d ] && echo "mapped $(cat $d/dm/name)"; done
for l in /sys/block/loop*/loop; do [ -e $l ] && echo "loop $(cat $l/backing_file)"; done
ls /dev/mapper 2>/dev/null | sed '/^control$/d; s/^/node /'
find /run/t -xdev 2>/dev/null
true
"""


#: What the agent itself holds: memory in KiB, threads, descriptors, and all children there are.
AGENT = r"""
for d in /proc/[0-9]*; do
  [ $d = /proc/$$ ] && continue
  case $(tr '\0' ' ' < $d/cmdline 2>/dev/null) in */bin/gcs*) agent=$d ;; esac
done
sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' $agent/smaps_rollup
ls $agent/task | wc -l
ls -l $agent/fd | sed -n 's/.* -> \([^[]*\).*/\1/p' | sort
"""


class Holdings(NamedTuple):
    """What the agent holds.

    Attributes:
        memory: Its proportional set size, in KiB.
        threads: How many it has.
        descriptors: What they lead to.
    """

    memory: int
    threads: int
    descriptors: list[str]


class Lab:
    """A VM, and disks to plug into it.

    Attributes:
        directory: For images.
    """

    def __init__(self, utility: UtilityVm, directory: Path) -> None:
        self.utility = utility
        self.directory = directory
        self._plugged: dict[int, Disk] = {}
        self._count = 0

    def image(self) -> Path:
        """A path for an image."""
        self._count += 1
        return self.directory / f"image{self._count}"

    async def plug(self, image: Path, *, read_only: bool = True) -> int:
        """Plug a disk in; its LUN."""
        lun = next(number for number in range(64) if number not in self._plugged)
        # Taken before the first await, so that two calls at once get two addresses.
        self._plugged[lun] = disk = Disk(image, lun, read_only=read_only)
        await self.utility.vm.add_disk(disk)
        return lun

    async def eject(self, lun: int) -> None:
        """Have the guest let a disk go, and unplug it."""
        await self.remove(SCSI, ScsiDevice(lun=lun))
        await self.pull(lun)

    async def pull(self, lun: int) -> None:
        """Unplug a disk without a word to the agent."""
        await self.utility.vm.remove_disk(self._plugged[lun])
        del self._plugged[lun]

    async def add(self, resource: str, settings: Message) -> None:
        await self.utility.guest.client.modify_settings(ADD, resource, settings)

    async def remove(self, resource: str, settings: Message) -> None:
        await self.utility.guest.client.modify_settings(REMOVE, resource, settings)

    async def refused(self, resource: str, settings: Message, message: str) -> None:
        """An Add that has to fail with a message, and to leave nothing."""
        before = await self.inventory()
        with pytest.raises(RemoteError, match=message):
            await self.add(resource, settings)
        assert await self.inventory() == before

    async def shell(self, script: str) -> tuple[int, str]:
        """Run a script in the VM; its exit code and output."""
        process = await self.utility.guest.execute_in_vm(["/bin/sh", "-c", script])
        result = await process.communicate()
        return result.exit_code, (result.stdout + result.stderr).decode()

    async def output(self, script: str) -> str:
        """The output of a script that has to succeed."""
        code, text = await self.shell(script)
        assert code == 0, text
        return text

    async def agent(self) -> Holdings:
        memory, threads, *descriptors = (await self.output(AGENT)).splitlines()
        return Holdings(int(memory), int(threads), descriptors)

    async def inventory(self) -> list[str]:
        return (await self.output(INVENTORY)).splitlines()


@contextlib.asynccontextmanager
async def boot_lab(image: Path, directory_of_images: Path) -> AsyncIterator[Lab]:
    options = BootOptions(image_dir=str(image), memory_mib=512)
    machine, vsock = await build_machine(options, lambda _: None)
    machine = replace(machine, pmem_slots=4)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(machine, Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        yield Lab(utility, directory_of_images)


def layer(lun: int, path: str, **settings: Any) -> MappedVirtualDisk:
    """A read-only disk, as hosts ask for one."""
    return MappedVirtualDisk(mount_path=path, lun=lun, read_only=True, options=["ro"], **settings)


def scratch(lun: int, path: str, **settings: Any) -> MappedVirtualDisk:
    """A disk to write on."""
    values: dict[str, Any] = {"ensure_filesystem": True, "filesystem": "ext4"} | settings
    return MappedVirtualDisk(mount_path=path, lun=lun, **values)


@contextlib.asynccontextmanager
async def nothing_left(lab: Lab) -> AsyncIterator[None]:
    """The block leaves the VM as it was, but for the directory that holds mount points."""
    before = await lab.inventory()
    yield
    await lab.output("[ ! -e /run/t ] || rmdir /run/t")
    assert await lab.inventory() == before
