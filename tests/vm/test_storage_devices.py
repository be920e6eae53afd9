"""Real disks, plugged into a VM as a host does: layers, scratch disks, persistent memory."""

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
    VPMemDevice,
    VPMemMappingInfo,
)
from tests.support.layer_images import (
    PMEM_ALIGNMENT,
    XFS_BYTES,
    make_layer,
    make_verified,
    pad,
)
from tests.support.storage import MIB, blank
from tests.support.storage_lab import (
    DISK,
    LAYERS,
    PMEM,
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
LAYER_COUNT = 30

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(image: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with boot_lab(image, tmp_path_factory.mktemp("images")) as booted:
        yield booted


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
            await lab.remove(SCSI, ScsiDevice(lun=lun))
        await lab.remove(DISK, MappedVirtualDisk(mount_path="/run/t/v", lun=lun, read_only=True))
        await lab.eject(lun)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_an_encrypted_scratch(lab: Lab, kind: str) -> None:
    async with nothing_left(lab):
        image = blank(lab.image(), XFS_BYTES + 100 * MIB if kind == "xfs" else 64 * MIB)
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
        node = f"/dev/mapper/dm-crypt-scsi-contr0-lun{lun}-p0"
        code, text = await lab.shell(f"cat {node} | tr -d '\\0' | grep -c CLEAR")
        assert (code, "0" in text.splitlines()) == (1, True)
        assert "Input/output error" in text
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
        linear = f"/dev/mapper/dm-linear-pmem{number}-{offset}-{size}"
        about = await lab.output(f"blockdev --getro {linear}; blockdev --getsize64 {linear}")
        assert about.split() == ["1", str(size)]
        assert (await lab.shell(f"dd if=/dev/zero of={linear} bs=512 count=1"))[0] == 1
        assert await lab.output("cat /run/t/a/f /run/t/b/f") == "firstsecond"
        beyond = part("/run/t/c", offset, 1 << 30)
        await lab.refused(PMEM, beyond, f"/dev/pmem{number} has .* bytes; a part of 1073741824")
        wrong = part("/run/t/c", offset, size, "1" * 64)
        with pytest.raises(RemoteError, match=r"in use|Device or resource busy|not 1111"):
            await lab.add(PMEM, wrong)
        for settings in parts:
            await lab.remove(PMEM, settings)
        await lab.refused(PMEM, wrong, f"root digest {root}, not 1111")


async def test_persistent_memory_is_used_directly_where_the_kernel_can(lab: Lab) -> None:
    """As a virtio device: for NVDIMMs without labels Linux has no pages to hand out."""
    plain = make_layer(lab.image(), "ext4", {"f": "plain"})
    digest = make_verified(checked := lab.image(), "ext4", {"f": "checked"})
    small = make_layer(lab.image(), "ext4", {"f": "small blocks"}, block_size=1024)
    images = [path.read_bytes() for path in (plain, checked, small)]
    both = lab.image()
    both.write_bytes(b"".join(images))
    before = pad(both, PMEM_ALIGNMENT).read_bytes()
    number = await lab.utility.plug_pmem(both, direct_access=True)
    places = {}
    start = 0
    for name, content, root in zip("abc", images, ("", digest, ""), strict=True):
        places[name] = VPMemDevice(
            device_number=number,
            mount_path=f"/run/t/{name}",
            mapping_info=VPMemMappingInfo(
                device_offset_in_bytes=start, device_size_in_bytes=len(content)
            ),
            verity_info=VerityInfo(root_digest=root) if root else None,
        )
        start += len(content)
    whole = VPMemDevice(device_number=number, mount_path="/run/t/whole")
    async with nothing_left(lab):
        await lab.add(PMEM, whole)
        assert ",dax=always" in await lab.output("grep /run/t/whole /proc/mounts")
        assert await lab.output("cat /run/t/whole/f") == "plain"
        await lab.remove(PMEM, whole)
        for settings in places.values():
            await lab.add(PMEM, settings)
        assert await lab.output("cat /run/t/[abc]/f") == "plaincheckedsmall blocks"
        # What is checked is read block by block, and blocks that are no pages can't be mapped.
        mounts = await lab.output("grep /run/t/ /proc/mounts")
        assert [",dax=always" in line for line in mounts.splitlines()] == [True, False, False]
        for settings in places.values():
            await lab.remove(PMEM, settings)
    assert both.read_bytes() == before


async def test_a_disk_that_comes_late(lab: Lab) -> None:
    async with nothing_left(lab):
        image = make_layer(lab.image(), "ext4", {"f": "late"})
        # Whose number the next disk gets.
        await lab.eject(lun := await lab.plug(image))
        settings = layer(lun, "/run/t/late")
        adding = asyncio.create_task(lab.add(DISK, settings))
        # The agent carries out requests at the same time.
        assert await lab.output("[ -e /run/t/late ] || echo waiting") == "waiting\n"
        assert not adding.done()
        assert await lab.plug(image) == lun
        await adding
        assert await lab.output("cat /run/t/late/f") == "late"
        await lab.remove(DISK, settings)
        await lab.eject(lun)


async def test_a_scratch_disk_is_made_in_a_vm(lab: Lab) -> None:
    """As the host makes the one that it copies for each container (spec 2.6)."""
    async with nothing_left(lab):
        image = blank(lab.image(), 16 * MIB)
        lun = await lab.plug(image, read_only=False)
        device = MappedVirtualDisk(mount_path="/run/t/m1", lun=lun, block_dev=True)
        await lab.add(DISK, device)
        options = "-E lazy_itable_init=0,nodiscard -O ^has_journal,sparse_super2,^resize_inode"
        await lab.output(f"mkfs.ext4 -q {options} /run/t/m1")
        await lab.remove(DISK, device)
        await lab.eject(lun)
        made = image.read_bytes()
        assert made[1080:1082] == b"\x53\xef"
        lun = await lab.plug(image, read_only=False)
        await lab.add(DISK, scratch(lun, "/run/t/m1"))
        await lab.remove(DISK, scratch(lun, "/run/t/m1"))
        await lab.eject(lun)
        # It is the same file system still, by its UUID.
        assert image.read_bytes()[1128:1144] == made[1128:1144]


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
