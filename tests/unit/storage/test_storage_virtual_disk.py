"""The resource MappedVirtualDisk: what is mounted how, and what is undone (spec 3.3)."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from gcs.linux.mount import (
    MS_NOATIME,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_SHARED,
    MS_SLAVE,
)
from gcs.protocol.errors import GcsError
from gcs.protocol.hresult import HResult
from gcs.protocol.settings import MappedVirtualDisk, VerityInfo
from gcs.storage.filesystem import detect
from gcs.storage.scsi import DiskAddress
from gcs.storage.virtual_disk import VirtualDiskDriver
from tests.support.storage import (
    MIB,
    RecordingMounts,
    SystemTree,
    blank,
    exists,
    with_ext4,
    with_magic,
)

if TYPE_CHECKING:
    from pathlib import Path


class Guest:
    """A VM with one controller, and one disk at LUN 1."""

    def __init__(self, directory: Path) -> None:
        self.tree = SystemTree(directory / "root")
        self.tree.add_pci_host(slot=3, number=0)
        self.node = self.tree.add_disk(0, 1, "sdb")
        self.target = str(directory / "mounts/scsi/m1")
        self.mounts = RecordingMounts()
        self.driver = VirtualDiskDriver(self.tree.bus(), self.mounts)

    def disk(self, **settings: Any) -> MappedVirtualDisk:
        values: dict[str, Any] = {"mount_path": self.target, "lun": 1} | settings
        return MappedVirtualDisk(**values)

    def is_untouched(self) -> bool:
        return not self.mounts.table and not os.path.lexists(os.path.dirname(self.target))


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_a_layer_is_mounted_read_only_without_replay(guest: Guest) -> None:
    with_ext4(guest.node)
    await guest.driver.add(guest.disk(read_only=True, options=["ro"]))
    assert guest.mounts.calls == [
        ("mount", str(guest.node), guest.target, "ext4", MS_RDONLY, "noload")
    ]
    assert stat.S_IMODE(os.stat(guest.target).st_mode) == 0o700


@pytest.mark.parametrize(
    ("offset", "content", "kind", "data"),
    [
        (0, b"XFSB", "xfs", "norecovery"),
        (0, b"hsqs", "squashfs", ""),
        (1024, b"\xe2\xe1\xf5\xe0", "erofs", ""),
    ],
)
async def test_layers_of_other_kinds_even_when_called_ext4(
    guest: Guest, offset: int, content: bytes, kind: str, data: str
) -> None:
    with_magic(guest.node, offset, content)
    await guest.driver.add(guest.disk(read_only=True, filesystem="ext4"))
    expected = (str(guest.node), guest.target, kind, MS_RDONLY, data)
    assert guest.mounts.mount_calls() == [expected]


async def test_a_scratch_disk_that_has_its_file_system_is_mounted_as_it_is(guest: Guest) -> None:
    with_ext4(guest.node)
    before = guest.node.read_bytes()
    await guest.driver.add(guest.disk(ensure_filesystem=True, filesystem="ext4"))
    assert guest.mounts.mount_calls() == [(str(guest.node), guest.target, "ext4", 0, "")]
    assert guest.node.read_bytes() == before


@pytest.mark.parametrize(("kind", "size"), [("ext4", 4 * MIB), ("xfs", 300 * MIB)])
async def test_a_blank_scratch_disk_is_formatted(guest: Guest, kind: str, size: int) -> None:
    blank(guest.node, size)
    await guest.driver.add(guest.disk(ensure_filesystem=True, filesystem=kind))
    assert detect(str(guest.node)) == kind
    assert guest.mounts.mount_calls() == [(str(guest.node), guest.target, kind, 0, "")]


async def test_a_disk_with_another_file_system_is_not_formatted(guest: Guest) -> None:
    with_magic(guest.node, 0, b"XFSB")
    before = guest.node.read_bytes()
    with pytest.raises(GcsError, match=r"sdb holds xfs where ext4 was asked for; nothing was cha"):
        await guest.driver.add(guest.disk(ensure_filesystem=True, filesystem="ext4"))
    assert guest.node.read_bytes() == before
    assert guest.is_untouched()


@pytest.mark.parametrize("kind", ["", "btrfs"])
async def test_only_some_file_systems_can_be_made(guest: Guest, kind: str) -> None:
    blank(guest.node)
    with pytest.raises(GcsError, match="unsupported filesystem") as caught:
        await guest.driver.add(guest.disk(ensure_filesystem=True, filesystem=kind))
    assert caught.value.hresult == HResult.FAIL
    assert guest.is_untouched()


async def test_a_data_disk_is_detected_and_its_options_apply(guest: Guest) -> None:
    with_magic(guest.node, 0, b"XFSB")
    options = ["rbind", "noatime", "nosuid", "rprivate,logbufs=4", "rslave"]
    await guest.driver.add(guest.disk(options=options))
    flags = MS_NOATIME | MS_NOSUID
    assert guest.mounts.mount_calls() == [
        (str(guest.node), guest.target, "xfs", flags, "logbufs=4"),
        ("none", guest.target, "", MS_PRIVATE | MS_REC, ""),
        ("none", guest.target, "", MS_SLAVE | MS_REC, ""),
    ]


async def test_a_partition_is_mounted(guest: Guest) -> None:
    node = with_ext4(guest.tree.add_partition(0, 1, "sdb", 2))
    await guest.driver.add(guest.disk(partition=2))
    assert guest.mounts.mount_calls() == [(str(node), guest.target, "ext4", 0, "")]


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (512, b"EFI PART", "no file system but partition table; give its Partition"),
        (0, b"LUKS\xba\xbe", "no file system but LUKS"),
        (700, b"noise", "no file system that is known; give its Filesystem"),
    ],
)
async def test_what_cannot_be_mounted_is_named(
    guest: Guest, offset: int, content: bytes, message: str
) -> None:
    with_magic(guest.node, offset, content)
    with pytest.raises(GcsError, match=f"device {guest.node} holds {message}"):
        await guest.driver.add(guest.disk())
    assert guest.is_untouched()


async def test_a_file_system_that_is_not_recognised_can_be_named(guest: Guest) -> None:
    blank(guest.node)
    await guest.driver.add(guest.disk(filesystem="minix"))
    assert guest.mounts.mount_calls() == [(str(guest.node), guest.target, "minix", 0, "")]


async def test_a_mount_that_fails_leaves_nothing(guest: Guest) -> None:
    with_ext4(guest.node)
    guest.mounts.failures[guest.target] = errno.EINVAL
    with pytest.raises(
        GcsError, match=rf"disk at controller 0, LUN 1 \({guest.node}\) on {guest.target}: mount: "
    ):
        await guest.driver.add(guest.disk())
    assert guest.is_untouched()
    guest.mounts.failures.clear()
    await guest.driver.add(guest.disk())


async def test_a_directory_that_cannot_be_made_is_named(guest: Guest) -> None:
    with_ext4(guest.node)
    guest.mounts.unmade[guest.target] = errno.EROFS
    message = rf"LUN 1 \({guest.node}\) on {guest.target}: make directory: Read-only file system"
    with pytest.raises(GcsError, match=message):
        await guest.driver.add(guest.disk())
    assert guest.mounts.calls == []
    assert guest.is_untouched()


async def test_a_propagation_that_fails_is_undone_by_unmounting(guest: Guest) -> None:
    with_ext4(guest.node)
    guest.mounts.failures[MS_SHARED] = errno.EINVAL
    with pytest.raises(GcsError, match="Invalid argument"):
        await guest.driver.add(guest.disk(options=["shared"]))
    assert guest.mounts.calls[-1] == ("unmount", guest.target)
    assert guest.is_untouched()


async def test_a_directory_that_was_there_survives_a_failure(guest: Guest) -> None:
    with_ext4(guest.node)
    os.makedirs(guest.target)
    guest.mounts.failures[guest.target] = errno.EIO
    with pytest.raises(GcsError):
        await guest.driver.add(guest.disk())
    assert exists(guest.target)


async def test_the_same_settings_again_change_nothing(guest: Guest) -> None:
    with_ext4(guest.node)
    await guest.driver.add(guest.disk(read_only=True))
    await guest.driver.add(guest.disk(read_only=True))
    assert guest.mounts.table == [guest.target]


async def test_requests_for_one_place_do_not_race(guest: Guest) -> None:
    with_ext4(guest.node)
    await asyncio.gather(*(guest.driver.add(guest.disk()) for _ in range(8)))
    assert guest.mounts.table == [guest.target]


async def test_a_place_that_is_taken_is_refused(guest: Guest) -> None:
    with_ext4(guest.node)
    with_ext4(guest.tree.add_disk(0, 2, "sdc"))
    await guest.driver.add(guest.disk())
    with pytest.raises(GcsError, match=f"something is mounted at {guest.target} already"):
        await guest.driver.add(guest.disk(lun=2))
    with pytest.raises(GcsError, match=f"something is mounted at {guest.target} already"):
        await guest.driver.add(guest.disk(read_only=True))
    assert guest.mounts.table == [guest.target]


async def test_what_vanished_since_can_be_mounted_again(guest: Guest) -> None:
    with_ext4(guest.node)
    await guest.driver.add(guest.disk())
    guest.mounts.table.clear()
    await guest.driver.add(guest.disk())
    assert guest.mounts.table == [guest.target]


async def test_remove_unmounts_and_removes_the_directory(guest: Guest) -> None:
    with_ext4(guest.node)
    await guest.driver.add(guest.disk(ensure_filesystem=True, filesystem="ext4"))
    # The disk need not be there any more, and the host does not repeat how it was mounted.
    guest.node.unlink()
    await guest.driver.remove(guest.disk())
    assert guest.mounts.table == []
    assert not exists(guest.target)
    assert guest.driver.disks == {}


async def test_remove_of_what_is_not_there_succeeds(guest: Guest) -> None:
    await guest.driver.remove(guest.disk())
    await guest.driver.remove(guest.disk(block_dev=True))
    await guest.driver.remove(guest.disk(mount_path=""))
    assert guest.mounts.calls == []


async def test_a_disk_in_use_stays(guest: Guest) -> None:
    with_ext4(guest.node)
    await guest.driver.add(guest.disk())
    guest.mounts.table.append(f"{guest.target}/rootfs")
    guest.mounts.busy = {guest.target}
    with pytest.raises(GcsError, match=f"mounted at {guest.target}/rootfs; remove that first"):
        await guest.driver.remove(guest.disk())
    assert exists(guest.target)
    guest.mounts.table.remove(f"{guest.target}/rootfs")
    guest.mounts.busy.clear()
    await guest.driver.remove(guest.disk())
    assert guest.mounts.table == []


async def test_without_a_path_the_disk_is_only_waited_for(guest: Guest) -> None:
    blank(guest.node)
    await guest.driver.add(guest.disk(mount_path=""))
    assert guest.is_untouched()
    with pytest.raises(GcsError, match="SCSI controller 9 does not exist"):
        await guest.driver.add(guest.disk(mount_path="", controller=9))


async def test_a_block_device_becomes_a_link(guest: Guest) -> None:
    blank(guest.node)
    await guest.driver.add(guest.disk(block_dev=True))
    await guest.driver.add(guest.disk(block_dev=True))
    assert os.readlink(guest.target) == str(guest.node)
    assert stat.S_IMODE(os.stat(os.path.dirname(guest.target)).st_mode) == 0o700
    assert guest.mounts.calls == []
    assert guest.driver.disks[guest.target].address == DiskAddress(0, 1)
    # A host may leave out what kind it was.
    await guest.driver.remove(guest.disk())
    assert not exists(guest.target)
    assert guest.node.exists()


async def test_a_link_does_not_replace_anything(guest: Guest) -> None:
    blank(guest.node)
    blank(guest.tree.add_disk(0, 2, "sdc"))
    await guest.driver.add(guest.disk(block_dev=True))
    with pytest.raises(GcsError, match="something is there already"):
        await guest.driver.add(guest.disk(block_dev=True, lun=2))
    assert os.readlink(guest.target) == str(guest.node)
    with pytest.raises(GcsError, match="is a symbolic link"):
        await guest.driver.add(guest.disk(lun=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encrypted": True, "filesystem": "xfs"}, "set EnsureFilesystem"),
        ({"encrypted": True, "read_only": True}, "neither ReadOnly nor BlockDev"),
        ({"encrypted": True, "block_dev": True}, "neither ReadOnly nor BlockDev"),
        ({"verity_info": VerityInfo(root_digest="00")}, "VerityInfo is for read-only disks"),
    ],
)
async def test_what_does_not_go_together_is_refused_before_anything_is_waited_for(
    guest: Guest, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(GcsError, match=rf"LUN 1 on /.*: .*{message}"):
        await guest.driver.add(guest.disk(**settings))
    assert guest.is_untouched()


@pytest.mark.parametrize("path", ["run/x", "/run/../etc", "/", "/proc/1", "/dev/x"])
async def test_places_that_cannot_be(guest: Guest, path: str) -> None:
    with_ext4(guest.node)
    for block_dev in (False, True):
        with pytest.raises(GcsError, match="MountPath"):
            await guest.driver.add(guest.disk(mount_path=path, block_dev=block_dev))
    with pytest.raises(GcsError, match="MountPath"):
        await guest.driver.remove(guest.disk(mount_path=path))
    assert guest.mounts.calls == []


async def test_a_missing_disk_is_named_with_its_place(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    driver = VirtualDiskDriver(guest.tree.bus(limit=0), guest.mounts)
    with pytest.raises(GcsError, match=f"{guest.target}: disk at controller 0, LUN 7 did not app"):
        await driver.add(guest.disk(lun=7))
    assert guest.is_untouched()


async def test_update_is_refused(guest: Guest) -> None:
    with pytest.raises(GcsError, match='the RequestType "Update" is not supported'):
        await guest.driver.update(guest.disk())
