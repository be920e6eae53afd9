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
    CombinedLayers,
    Layer,
    MappedVirtualDisk,
    ScsiDevice,
    VerityInfo,
    VPMemDevice,
    VPMemMappingInfo,
)
from tests.support.layer_images import (
    PMEM_ALIGNMENT,
    XFS_BYTES,
    add_hashes,
    make_layer,
    make_verified,
    overwrite,
    pad,
)
from tests.support.storage import MIB, blank
from uvm.boot import BootOptions, build_machine
from uvm.utility_vm import UtilityVm
from uvm.vm.machine import Disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gcs.protocol.requests import Message

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "what the layer holds "
LAYER_COUNT = 30
DISK, PMEM, LAYERS = "MappedVirtualDisk", "VPMemDevice", "CombinedLayers"

#: Mounts, mapped devices, links and directories of mounts.
INVENTORY = r"""
sed 's/^[0-9]* [0-9]* [0-9:]* /mount /' /proc/1/mountinfo
for d in /sys/block/dm-*; do [ -e $d ] && echo "mapped $(cat $d/dm/name)"; done
ls /dev/mapper 2>/dev/null | sed '/^control$/d; s/^/node /'
find /run/t -xdev 2>/dev/null
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
    async with boot_lab(image, tmp_path_factory.mktemp("images")) as booted:
        yield booted


@pytest_asyncio.fixture(loop_scope="module")
async def fresh_lab(image: Path, tmp_path: Path) -> AsyncIterator[Lab]:
    """A VM of its own: what other tests plugged slows a shared one down."""
    async with boot_lab(image, tmp_path) as booted:
        yield booted


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


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
async def test_layers_of_each_kind(lab: Lab, kind: str) -> None:
    async with nothing_left(lab):
        lun = await lab.plug(make_layer(lab.image(), kind, {"f": kind}))
        # Hosts call every layer ext4.
        settings = layer(lun, "/run/t/layer", filesystem="ext4")
        await lab.add(DISK, settings)
        await lab.add(DISK, settings)
        assert await lab.output("cat /run/t/layer/f") == kind
        assert f" {kind} ro," in await lab.output("grep /run/t/layer /proc/mounts")
        await lab.remove(DISK, settings)
        await lab.eject(lun)


async def test_an_xfs_data_disk_keeps_its_data_and_its_options(lab: Lab) -> None:
    async with nothing_left(lab):
        image = make_layer(lab.image(), "xfs", {})
        for words in ("echo kept > /run/t/data/f", "cat /run/t/data/f"):
            lun = await lab.plug(image, read_only=False)
            settings = scratch(lun, "/run/t/data", filesystem="xfs", options=["noatime", "rshared"])
            await lab.add(DISK, settings)
            output = await lab.output(words)
            assert ",noatime" in await lab.output("grep /run/t/data /proc/mounts")
            assert "shared:" in await lab.output("grep /run/t/data /proc/self/mountinfo")
            await lab.remove(DISK, settings)
            await lab.eject(lun)
        assert output == "kept\n"
        # What is no ext4 file system is not made one.
        lun = await lab.plug(image, read_only=False)
        await lab.refused(
            DISK, scratch(lun, "/run/t/data"), "/dev/sd\\w+ holds xfs where ext4 was asked"
        )
        await lab.eject(lun)


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
async def test_checked_layers(lab: Lab, kind: str) -> None:
    async with nothing_left(lab):
        root = make_verified(path := lab.image(), kind, {"f": TEXT})
        lun = await lab.plug(path)
        other = "0" * 64
        await lab.refused(
            DISK,
            layer(lun, "/run/t/v", verity_info=VerityInfo(root_digest=other)),
            f"/dev/sd\\w+ has the dm-verity root digest {root}, not {other}",
        )
        settings = layer(lun, "/run/t/v", verity_info=VerityInfo(root_digest=root))
        await lab.add(DISK, settings)
        assert await lab.output("cat /run/t/v/f") == TEXT
        # Neither the disk nor the host's next request may take it away.
        with pytest.raises(RemoteError, match=r"LUN \d+: still a part of dm-verity-scsi-contr0"):
            await lab.remove("SCSIDevice", ScsiDevice(lun=lun))
        await lab.remove(DISK, MappedVirtualDisk(mount_path="/run/t/v", lun=lun, read_only=True))
        await lab.eject(lun)


async def test_changed_layers_are_not_read(lab: Lab) -> None:
    async with nothing_left(lab):
        root = make_verified(path := lab.image(), "ext4", {"f": TEXT, "g": "untouched"})
        overwrite(path, TEXT.encode(), TEXT.upper().encode())
        lun = await lab.plug(path)
        settings = layer(lun, "/run/t/v", verity_info=VerityInfo(root_digest=root))
        await lab.add(DISK, settings)
        assert await lab.output("cat /run/t/v/g") == "untouched"
        code, text = await lab.shell("cat /run/t/v/f")
        assert (code, TEXT.upper() in text) == (1, False)
        assert "Input/output error" in text
        await lab.remove(DISK, settings)
        await lab.eject(lun)
        # The superblock of the file system itself.
        with path.open("r+b") as file:
            file.seek(1024 + 120)
            file.write(b"renamed")
        lun = await lab.plug(path)
        settings = layer(lun, "/run/t/v", verity_info=VerityInfo(root_digest=root))
        await lab.refused(
            DISK, settings, "LUN .* on /run/t/v: .*; dm-verity lets no block pass that does not"
        )
        await lab.eject(lun)


async def test_hashes_that_are_damaged_are_no_layer(lab: Lab) -> None:
    async with nothing_left(lab):
        path = make_layer(lab.image(), "ext4", {"f": TEXT})
        size = path.stat().st_size
        root = add_hashes(path)
        with path.open("r+b") as file:
            file.seek(size)
            file.write(b"nothing")
        lun = await lab.plug(path)
        settings = layer(lun, "/run/t/v", verity_info=VerityInfo(root_digest=root))
        await lab.refused(DISK, settings, f"has no dm-verity superblock at byte {size}")
        await lab.eject(lun)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_an_encrypted_scratch(lab: Lab, kind: str) -> None:
    async with nothing_left(lab):
        image = blank(lab.image(), XFS_BYTES + 100 * MIB)
        lun = await lab.plug(image, read_only=False)
        settings = scratch(lun, "/run/t/scratch", encrypted=True, filesystem=kind)
        await lab.add(DISK, settings)
        script = "for n in $(seq 999); do echo CLEAR-TEXT-$n; done > f; sync f; md5sum < f"
        written = await lab.output(f"cd /run/t/scratch; {script}")
        read = "echo 3 > /proc/sys/vm/drop_caches; md5sum < /run/t/scratch/f"
        assert await lab.output(read) == written
        # A v1 host does not say again that it is encrypted.
        await lab.remove(DISK, MappedVirtualDisk(mount_path="/run/t/scratch", lun=lun))
        await lab.eject(lun)
        assert image.stat().st_blocks * 512 > MIB
        assert b"CLEAR-TEXT" not in image.read_bytes()
        if kind == "xfs":
            return
        # The key is gone: what was written does not come back.
        lun = await lab.plug(image, read_only=False)
        settings = scratch(lun, "/run/t/scratch", encrypted=True, filesystem=kind)
        await lab.add(DISK, settings)
        assert await lab.output("ls /run/t/scratch") in ("", "lost+found\n")
        await lab.remove(DISK, settings)
        await lab.eject(lun)


async def test_persistent_memory(lab: Lab) -> None:
    plain = pad(make_layer(lab.image(), "ext4", {"f": "plain"}), PMEM_ALIGNMENT)
    number = await lab.utility.plug_pmem(plain)
    async with nothing_left(lab):
        settings = VPMemDevice(device_number=number, mount_path="/run/t/p")
        await lab.add(PMEM, settings)
        await lab.add(PMEM, settings)
        assert await lab.output("cat /run/t/p/f") == "plain"
        assert " ext4 ro," in await lab.output("grep /run/t/p /proc/mounts")
        await lab.remove(PMEM, settings)
        await lab.remove(PMEM, settings)


async def test_parts_of_persistent_memory(lab: Lab) -> None:
    first = make_layer(lab.image(), "ext4", {"f": "first"})
    root = make_verified(second := lab.image(), "erofs", {"f": "second"})
    both = lab.image()
    both.write_bytes(first.read_bytes() + second.read_bytes())
    offset, size = first.stat().st_size, second.stat().st_size
    number = await lab.utility.plug_pmem(pad(both, PMEM_ALIGNMENT))

    def part(path: str, start: int, length: int, digest: str = "") -> VPMemDevice:
        mapping = VPMemMappingInfo(device_offset_in_bytes=start, device_size_in_bytes=length)
        return VPMemDevice(
            device_number=number,
            mount_path=path,
            mapping_info=mapping,
            verity_info=VerityInfo(root_digest=digest) if digest else None,
        )

    async with nothing_left(lab):
        parts = [part("/run/t/a", 0, offset), part("/run/t/b", offset, size, root)]
        for settings in parts:
            await lab.add(PMEM, settings)
        assert await lab.output("cat /run/t/a/f /run/t/b/f") == "firstsecond"
        beyond = part("/run/t/c", offset, 1 << 30)
        await lab.refused(PMEM, beyond, f"/dev/pmem{number} has .* bytes; a part of 1073741824")
        wrong = part("/run/t/c", offset, size, "1" * 64)
        with pytest.raises(RemoteError, match=r"in use|Device or resource busy|not 1111"):
            await lab.add(PMEM, wrong)
        for settings in parts:
            await lab.remove(PMEM, settings)
        await lab.refused(PMEM, wrong, f"root digest {root}, not 1111")


async def test_thirty_layers(lab: Lab) -> None:
    async with nothing_left(lab):
        disks = []
        for number in range(LAYER_COUNT):
            image = make_layer(
                lab.image(), "ext4", {"all": f"{number}", f"own{number}": "x"}, size=MIB
            )
            disks.append(layer(await lab.plug(image), f"/run/t/layers/{number}"))
        room = await lab.plug(blank(lab.image(), 16 * MIB), read_only=False)
        upper = scratch(room, "/run/t/c/scratch")
        for settings in (*disks, upper):
            await lab.add(DISK, settings)
        root = CombinedLayers(
            container_root_path="/run/t/c/rootfs",
            layers=[Layer(path=settings.mount_path) for settings in disks],
            scratch_path="/run/t/c/scratch",
        )
        await lab.add(LAYERS, root)
        # The first one is the top-most.
        script = "cd /run/t/c/rootfs; echo new > all; ls | wc -l; cat /run/t/layers/0/all all"
        assert await lab.output(script) == f"{LAYER_COUNT + 2}\n0new\n"
        await lab.remove(LAYERS, root)
        for settings in (upper, *disks):
            await lab.remove(DISK, settings)
            await lab.eject(settings.lun)
        await lab.output("rmdir /run/t/c /run/t/layers")


async def test_a_full_disk_is_said_to_be(lab: Lab) -> None:
    async with nothing_left(lab):
        lun = await lab.plug(blank(lab.image(), 8 * MIB), read_only=False)
        settings = scratch(lun, "/run/t/full")
        await lab.add(DISK, settings)
        fill = "dd if=/dev/zero of=/run/t/full/f bs=64k; dd if=/dev/zero of=/run/t/full/g bs=1k"
        code, text = await lab.shell(fill)
        assert code == 1
        assert "No space left on device" in text
        root = CombinedLayers(
            container_root_path="/run/t/full/c/rootfs",
            layers=[Layer(path="/bin")],
            scratch_path="/run/t/full",
        )
        message = (
            "combine 1 layers at /run/t/full/c/rootfs: .*No space left on device.* inodes free"
        )
        await lab.refused(LAYERS, root, message)
        await lab.remove(DISK, settings)
        await lab.eject(lun)


async def test_a_disk_that_is_pulled_while_it_is_used(lab: Lab) -> None:
    async with nothing_left(lab):
        lun = await lab.plug(make_layer(lab.image(), "ext4", {"f": "here"}))
        settings = layer(lun, "/run/t/pulled")
        await lab.add(DISK, settings)
        await lab.pull(lun)
        code, _ = await lab.shell("echo 3 > /proc/sys/vm/drop_caches; cat /run/t/pulled/f")
        assert code == 1
        await lab.remove(DISK, settings)
        await lab.remove("SCSIDevice", ScsiDevice(lun=lun))


async def test_disks_that_are_refused(lab: Lab) -> None:
    async with nothing_left(lab):
        image = make_layer(lab.image(), "ext4", {})
        with image.open("r+b") as file:
            # The superblock stays, the descriptors of the groups go.
            file.seek(4096)
            file.write(b"\xff" * 4096)
        damaged = await lab.plug(image)
        good = await lab.plug(make_layer(lab.image(), "ext4", {}))
        message = rf"disk at controller 0, LUN {damaged} \(/dev/sd\w+\) on /run/t/x: mount ext4"
        await lab.refused(DISK, layer(damaged, "/run/t/x"), message)
        await lab.refused(
            DISK, layer(good, "/run/t/x", controller=9), "controller 9 does not exist"
        )
        await lab.refused(DISK, layer(good, "/proc/x"), "belongs to the guest itself")
        await lab.add(DISK, layer(good, "/run/t/x"))
        await lab.refused(DISK, layer(damaged, "/run/t/x"), "something is mounted at /run/t/x")
        user = await lab.utility.guest.execute_in_vm(
            ["/bin/cat"], working_directory="/run/t/x", stdin=True
        )
        with pytest.raises(RemoteError, match=r"unmount /run/t/x: in use by process \d+ \(cat\)"):
            await lab.remove(DISK, layer(good, "/run/t/x"))
        with pytest.raises(RemoteError, match=rf"LUN {good}: still mounted at /run/t/x"):
            await lab.remove("SCSIDevice", ScsiDevice(lun=good))
        await user.communicate()
        await lab.remove(DISK, layer(good, "/run/t/x"))
        for lun in (damaged, good):
            await lab.eject(lun)


@pytest.mark.timeout(900)
async def test_two_hundred_disks_come_and_go(fresh_lab: Lab) -> None:
    lab = fresh_lab
    image = make_layer(lab.image(), "ext4", {"f": "x"}, size=MIB)
    root = make_verified(checked := lab.image(), "erofs", {"f": "x"})
    async with nothing_left(lab):
        for number in range(200):
            with_hashes = number % 8 == 0
            lun = await lab.plug(checked if with_hashes else image)
            info = VerityInfo(root_digest=root) if with_hashes else None
            settings = layer(lun, "/run/t/cycle", verity_info=info)
            await lab.add(DISK, settings)
            await lab.remove(DISK, settings)
            await lab.eject(lun)
