"""Disks that are refused, damaged, full or pulled in a VM, and two hundred that come and go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gcs.protocol.errors import RemoteError
from gcs.protocol.settings import (
    CombinedLayers,
    Layer,
    MappedVirtualDisk,
    ScsiDevice,
    VerityInfo,
)
from tests.support.layer_images import (
    add_hashes,
    make_layer,
    make_verified,
    overwrite,
)
from tests.support.storage import MIB, blank
from tests.support.storage_lab import (
    DISK,
    LAYERS,
    SCSI,
    Lab,
    boot_lab,
    layer,
    nothing_left,
    scratch,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TEXT = "what the layer holds "

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(image: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with boot_lab(image, tmp_path_factory.mktemp("images")) as booted:
        yield booted


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
        await lab.remove(SCSI, ScsiDevice(lun=lun))


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
            await lab.remove(SCSI, ScsiDevice(lun=good))
        await user.communicate()
        await lab.remove(DISK, layer(good, "/run/t/x"))
        for lun in (damaged, good):
            await lab.eject(lun)


async def test_addresses_and_disks_that_are_wrong(lab: Lab) -> None:
    async with nothing_left(lab):
        # Nothing comes at a controller that is not there: it is waited for, ten seconds.
        absent = asyncio.create_task(
            lab.refused(
                DISK,
                layer(0, "/run/t/absent", controller=2),
                "/run/t/absent: SCSI controller 2 did not appear .* has 1 virtio-scsi controllers",
            )
        )
        good = await lab.plug(make_layer(lab.image(), "ext4", {}))
        empty = await lab.plug(blank(lab.image(), 2 * MIB), read_only=False)
        small = await lab.plug(blank(lab.image(), MIB // 2), read_only=False)
        where = r"disk at controller 0, LUN {} .*on /run/t/x: "
        refusals = [
            (layer(empty, "/run/t/x"), where.format(empty) + ".*holds no file system"),
            (
                MappedVirtualDisk(mount_path="/run/t/x", lun=good),
                where.format(good) + "mount ext4.*(Permission denied|Read-only)",
            ),
            (
                scratch(empty, "/run/t/x", filesystem="xfs"),
                where.format(empty) + "format /dev/sd.*mkfs.xfs",
            ),
            (
                scratch(empty, "/run/t/x", filesystem="btrfs"),
                where.format(empty) + "unsupported filesystem 'btrfs'",
            ),
            (
                scratch(small, "/run/t/x", encrypted=True),
                where.format(small) + ".*has 524288 bytes; an encrypted one needs",
            ),
            (
                layer(good, "/run/t/x", verity_info=VerityInfo(root_digest="0" * 64)),
                where.format(good) + ".*has no dm-verity superblock",
            ),
            (
                MappedVirtualDisk(
                    mount_path="/run/t/x", lun=good, read_only=True, options=["no-such"]
                ),
                where.format(good) + "mount ext4.*'noload,no-such'",
            ),
            (layer(good, "/run/t/../../etc"), "MountPath '/run/t/../../etc' contains"),
            (layer(good, "/etc"), "MountPath '/etc' belongs to the guest itself"),
            (layer(good, "/sys/x", block_dev=True), "belongs to the guest itself"),
            (layer(good, "/etc/passwd", block_dev=True), "/etc/passwd: something is there"),
        ]
        for settings, message in refusals:
            await lab.refused(DISK, settings, message)
        await absent
        for lun in (good, empty, small):
            await lab.eject(lun)


async def test_disks_under_a_root_file_system_stay(lab: Lab) -> None:
    async with nothing_left(lab):
        bottom = layer(
            await lab.plug(make_layer(lab.image(), "ext4", {"f": "below"})), "/run/t/layer"
        )
        upper = scratch(
            await lab.plug(blank(lab.image(), 8 * MIB), read_only=False), "/run/t/scratch"
        )
        root = CombinedLayers(
            container_root_path="/run/t/c/rootfs",
            layers=[Layer(path="/run/t/layer")],
            scratch_path="/run/t/scratch/c",
        )
        for resource, settings in ((DISK, bottom), (DISK, upper), (LAYERS, root)):
            await lab.add(resource, settings)
        for disk in (bottom, upper):
            with pytest.raises(
                RemoteError,
                match=rf"unmount {disk.mount_path} \(disk at controller 0, LUN {disk.lun}\): "
                "in use by the root file system /run/t/c/rootfs",
            ):
                await lab.remove(DISK, disk)
        await lab.output("umount /run/t/layer")
        with pytest.raises(RemoteError, match=rf"LUN {bottom.lun}: /dev/sd. is unmounted, but"):
            await lab.remove(SCSI, ScsiDevice(lun=bottom.lun))
        assert await lab.output("cat /run/t/c/rootfs/f") == "below"
        user = await lab.utility.guest.execute_in_vm(
            ["/bin/cat"], working_directory="/run/t/c/rootfs", stdin=True
        )
        message = r"unmount /run/t/c/rootfs: in use by process \d+ \(cat\)"
        with pytest.raises(RemoteError, match=message):
            await lab.remove(LAYERS, root)
        await user.communicate()
        await lab.remove(LAYERS, root)
        for disk in (upper, bottom):
            await lab.remove(DISK, disk)
            await lab.eject(disk.lun)


async def test_a_scratch_that_is_pulled_while_it_is_written(lab: Lab) -> None:
    async with nothing_left(lab):
        lun = await lab.plug(blank(lab.image(), 16 * MIB), read_only=False)
        upper = scratch(lun, "/run/t/scratch")
        root = CombinedLayers(
            container_root_path="/run/t/c/rootfs",
            layers=[Layer(path="/bin")],
            scratch_path="/run/t/scratch/c",
        )
        await lab.add(DISK, upper)
        await lab.add(LAYERS, root)
        loop = "while dd if=/dev/zero of=f bs=64k count=9 conv=fsync; do :; done 2>&1 | tail -1"
        writer = await lab.utility.guest.execute_in_vm(
            ["/bin/sh", "-c", f"cd /run/t/c/rootfs; {loop}"]
        )
        await lab.output("until [ -s /run/t/c/rootfs/f ]; do :; done")
        await lab.pull(lun)
        text = (await writer.communicate()).stdout.decode()
        assert "error" in text or "Read-only file system" in text, text
        await lab.remove(LAYERS, root)
        await lab.remove(DISK, upper)
        await lab.remove(SCSI, ScsiDevice(lun=lun))


CYCLES, AT_ONCE = 200, 4
#: How much the memory of the agent may grow meanwhile, in KiB: threads of its pool and malloc's
#: noise take some hundreds, and whatever is forgotten in each cycle takes more than this.
GROWTH = 1024


@pytest.mark.timeout(900)
async def test_two_hundred_disks_come_and_go(lab: Lab) -> None:
    image = make_layer(lab.image(), "ext4", {"f": "x"}, size=MIB)
    root = make_verified(checked := lab.image(), "erofs", {"f": "x"})

    async def cycle(worker: int, numbers: range) -> None:
        for number in numbers:
            with_hashes = number % 8 == 0
            lun = await lab.plug(checked if with_hashes else image)
            info = VerityInfo(root_digest=root) if with_hashes else None
            settings = layer(lun, f"/run/t/cycle{worker}", verity_info=info)
            await lab.add(DISK, settings)
            await lab.remove(DISK, settings)
            await lab.eject(lun)

    async def cycles(count: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for worker in range(AT_ONCE):
                tasks.create_task(cycle(worker, range(worker, count, AT_ONCE)))

    async with nothing_left(lab):
        await cycles(10 * AT_ONCE)
        before = await lab.agent()
        await cycles(CYCLES)
        after = await lab.agent()
        assert after.descriptors == before.descriptors
        # The pool grows as it is needed.
        assert after.threads <= before.threads + AT_ONCE
        assert after.memory < before.memory + GROWTH
