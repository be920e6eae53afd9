"""Real disks, plugged into a VM as a host does: layers, scratch disks, persistent memory."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gcs.protocol.errors import RemoteError
from gcs.protocol.settings import (
    ADD,
    REMOVE,
    MappedVirtualDisk,
    ScsiDevice,
)
from tests.support.layer_images import (
    XFS_BYTES,
    make_layer,
)
from tests.support.storage import MIB, blank
from uvm.boot import BootOptions, build_machine
from uvm.utility_vm import UtilityVm
from uvm.vm.machine import Disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gcs.protocol.requests import Message

pytestmark = pytest.mark.asyncio(loop_scope="module")

DISK, PMEM, LAYERS = "MappedVirtualDisk", "VPMemDevice", "CombinedLayers"

#: Mounts, mapped devices, links and directories of mounts, descriptors of the agent.
INVENTORY = r"""
sed 's/^[0-9]* [0-9]* [0-9:]* /mount /' /proc/1/mountinfo
for d in /sys/block/dm-*; do [ -e $d ] && echo "mapped $(cat $d/dm/name)"; done
ls /dev/mapper 2>/dev/null | sed '/^control$/d; s/^/node /'
find /run/t 2>/dev/null
for p in /proc/[0-9]*; do
  case "$(tr '\0' ' ' < $p/cmdline 2>/dev/null)" in
    /bin/gcs*) echo "descriptors $(ls $p/fd | wc -l)";;
  esac
done
true
"""


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
        disk = Disk(image, lun, read_only=read_only)
        await self.utility.vm.add_disk(disk)
        self._plugged[lun] = disk
        return lun

    async def eject(self, lun: int) -> None:
        """Have the guest let a disk go, and unplug it."""
        await self.remove("SCSIDevice", ScsiDevice(lun=lun))
        await self.pull(lun)

    async def pull(self, lun: int) -> None:
        """Unplug a disk without a word to the agent."""
        await self.utility.vm.remove_disk(self._plugged.pop(lun))

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

    async def inventory(self) -> list[str]:
        return (await self.output(INVENTORY)).splitlines()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(image: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    options = BootOptions(image_dir=str(image), memory_mib=512)
    machine, vsock = await build_machine(options, lambda _: None)
    machine = replace(machine, pmem_slots=4)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(machine, Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        yield Lab(utility, tmp_path_factory.mktemp("images"))


def layer(lun: int, path: str, **settings: Any) -> MappedVirtualDisk:
    """A read-only disk, as hosts ask for one."""
    return MappedVirtualDisk(mount_path=path, lun=lun, read_only=True, options=["ro"], **settings)


def scratch(lun: int, path: str, **settings: Any) -> MappedVirtualDisk:
    """A disk to write on."""
    values: dict[str, Any] = {"ensure_filesystem": True, "filesystem": "ext4"} | settings
    return MappedVirtualDisk(mount_path=path, lun=lun, **values)


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
async def test_layers_of_each_kind(lab: Lab, kind: str) -> None:
    before = await lab.inventory()
    lun = await lab.plug(make_layer(lab.image(), kind, {"f": kind}))
    # Hosts call every layer ext4.
    settings = layer(lun, "/run/t/layer", filesystem="ext4")
    await lab.add(DISK, settings)
    await lab.add(DISK, settings)
    assert await lab.output("cat /run/t/layer/f") == kind
    assert f" {kind} " in await lab.output("grep /run/t/layer /proc/mounts")
    await lab.remove(DISK, settings)
    await lab.eject(lun)
    await lab.output("rmdir /run/t")
    assert await lab.inventory() == before


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_an_encrypted_scratch(lab: Lab, kind: str) -> None:
    before = await lab.inventory()
    image = blank(lab.image(), XFS_BYTES + 100 * MIB)
    lun = await lab.plug(image, read_only=False)
    settings = scratch(lun, "/run/t/scratch", encrypted=True, filesystem=kind)
    await lab.add(DISK, settings)
    await lab.output("for i in 1 2 3 4; do echo CLEAR-TEXT-$i; done > /run/t/scratch/f; sync")
    v1 = MappedVirtualDisk(mount_path="/run/t/scratch", lun=lun)
    await lab.remove(DISK, v1)
    await lab.eject(lun)
    await lab.output("rmdir /run/t")
    assert await lab.inventory() == before
