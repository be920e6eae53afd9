"""Checked layers: what is read from a device, what is asked of the kernel (spec 5.5)."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gcs.linux.mount import MS_RDONLY
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import MappedVirtualDisk, VerityInfo
from gcs.storage import filesystem
from gcs.storage.layered_disk import make_verified
from gcs.storage.verity import read_tree, require_root, verity_target
from gcs.storage.virtual_disk import VirtualDiskDriver
from tests.support.layer_images import SALT, make_layer, make_verified as make_verified_image
from tests.support.mapper import RecordingMapper
from tests.support.storage import RecordingMounts, SystemTree, exists

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = 4


def superblock(**changes: Any) -> bytes:
    values = {
        "signature": b"verity\0\0",
        "version": 1,
        "algorithm": b"sha256",
        "data_block": 4096,
        "hash_block": 4096,
        "blocks": BLOCKS,
        "salt_size": 2,
        "salt": b"\xab\xcd",
    } | changes
    return struct.pack(
        "<8sII16s32sIIQH6x256s",
        values["signature"],
        values["version"],
        1,
        bytes(16),
        values["algorithm"],
        values["data_block"],
        values["hash_block"],
        values["blocks"],
        values["salt_size"],
        values["salt"],
    )


def device(path: Path, head: bytes, top: bytes = b"t" * 4096) -> Path:
    """A squashfs of some blocks, in name only, with a superblock and a block of hashes."""
    data = bytearray(BLOCKS * 4096)
    data[:4] = b"hsqs"
    # The last block is not full: its file system ends within.
    struct.pack_into("<Q", data, 40, BLOCKS * 4096 - 100)
    path.write_bytes(bytes(data) + head.ljust(4096, b"\0") + top)
    return path


def test_what_is_read(tmp_path: Path) -> None:
    path = device(tmp_path / "d", superblock())
    tree = read_tree(str(path))
    root = hashlib.sha256(b"\xab\xcd" + b"t" * 4096).hexdigest()
    assert tree.root_digest == root
    target = verity_target(str(path), tree)
    # 16 KiB are 32 sectors; the superblock is block 4, the hashes begin at block 5.
    assert (target.kind, target.sectors) == ("verity", 32)
    assert target.parameters == f"1 {path} {path} 4096 4096 4 5 sha256 {root} abcd"
    require_root("d", tree, root.upper())


def test_no_salt(tmp_path: Path) -> None:
    path = device(tmp_path / "d", superblock(salt_size=0))
    assert verity_target("x", read_tree(str(path))).parameters.endswith(" -")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": b"verify\0\0"}, "has no dm-verity superblock at byte 16384"),
        ({"version": 2}, "not valid: version 2"),
        ({"algorithm": b"sha256 x"}, "not valid: algorithm 'sha256 x'"),
        ({"algorithm": b"\xff"}, "not valid: algorithm"),
        ({"data_block": 0}, "blocks of 0 and 4096 bytes"),
        ({"hash_block": 1 << 20}, "blocks of 4096 and 1048576 bytes"),
        ({"salt_size": 257}, "a salt of 257 bytes"),
        ({"blocks": 5}, "5 blocks of 4096 bytes for a file system of 16384 bytes"),
    ],
)
def test_superblocks_that_make_no_sense(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = device(tmp_path / "d", superblock(**changes))
    with pytest.raises(GcsError, match=message) as caught:
        read_tree(str(path))
    assert str(path) in str(caught.value)


def test_devices_that_end_too_early(tmp_path: Path) -> None:
    path = device(tmp_path / "d", superblock(), top=b"short")
    with pytest.raises(GcsError, match="ends before the first block of its dm-verity hashes"):
        read_tree(str(path))
    path.write_bytes(path.read_bytes()[: BLOCKS * 4096])
    with pytest.raises(GcsError, match="no dm-verity superblock at byte 16384"):
        read_tree(str(path))


def test_a_device_without_a_file_system(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(bytes(1 << 17))
    with pytest.raises(GcsError, match="holds no file system that is known"):
        read_tree(str(path))


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs"])
def test_what_veritysetup_makes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "d"
    root = make_verified_image(path, kind, {"f": "x" * 100_000})
    tree = read_tree(str(path))
    assert (tree.root_digest, tree.salt) == (root, SALT)


@pytest.mark.parametrize("kind", ["ext4", "erofs", "squashfs", "xfs"])
def test_sizes_of_file_systems(tmp_path: Path, kind: str) -> None:
    files = {} if kind == "xfs" else {"f": "x"}
    path = make_layer(tmp_path / "d", kind, files)
    size = filesystem.size_in_bytes(str(path))
    assert size == (path.stat().st_size + 4095) // 4096 * 4096


def test_blocks_beyond_32_bits(tmp_path: Path) -> None:
    data = bytearray(1 << 17)
    struct.pack_into("<I", data, 1024 + 4, 5)
    struct.pack_into("<I", data, 1024 + 24, 2)
    struct.pack_into("<H", data, 1024 + 56, 0xEF53)
    struct.pack_into("<I", data, 1024 + 0x150, 1)
    (tmp_path / "d").write_bytes(data)
    assert filesystem.size_in_bytes(str(tmp_path / "d")) == 5 * 4096
    struct.pack_into("<I", data, 1024 + 0x60, 0x80)
    (tmp_path / "d").write_bytes(data)
    assert filesystem.size_in_bytes(str(tmp_path / "d")) == (1 << 32 | 5) * 4096


class Guest:
    """A VM with a checked layer at LUN 1, whose root is `root`."""

    def __init__(self, directory: Path) -> None:
        tree = SystemTree(directory / "root")
        tree.add_pci_host(slot=3, number=0)
        self.node = tree.add_disk(0, 1, "sdb")
        self.root = make_verified_image(self.node, "ext4", {"f": "x"})
        self.target = str(directory / "m1")
        self.mounts = RecordingMounts()
        self.mapper = RecordingMapper(directory / "mapper")
        self.driver = VirtualDiskDriver(tree.bus(), self.mounts, self.mapper)
        self.name = f"dm-verity-scsi-contr0-lun1-p0-{self.root}"

    def layer(self, root: str, **settings: Any) -> MappedVirtualDisk:
        return MappedVirtualDisk(
            mount_path=self.target,
            lun=1,
            read_only=True,
            verity_info=VerityInfo(root_digest=root),
            **settings,
        )


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_a_checked_layer(guest: Guest) -> None:
    await guest.driver.add(guest.layer(guest.root))
    assert guest.mapper.calls == [("create", f"{guest.name} verity ro")]
    node = str(guest.mapper.directory / guest.name)
    assert guest.mounts.mount_calls() == [(node, guest.target, "ext4", MS_RDONLY, "noload")]
    # The v1 host says no more than where it was.
    await guest.driver.remove(MappedVirtualDisk(mount_path=guest.target, lun=1, read_only=True))
    assert (guest.mapper.devices, guest.mounts.table) == ({}, [])
    assert not exists(guest.target)


async def test_a_checked_block_device(guest: Guest) -> None:
    await guest.driver.add(guest.layer(guest.root, block_dev=True))
    assert os.readlink(guest.target) == str(guest.mapper.directory / guest.name)
    await guest.driver.remove(guest.layer(guest.root, block_dev=True))
    assert guest.mapper.devices == {}
    assert not exists(guest.target)


async def test_another_root_digest(guest: Guest) -> None:
    with pytest.raises(GcsError, match=f"digest {guest.root}, not {'0' * 64} as was asked for"):
        await guest.driver.add(guest.layer("0" * 64))
    assert guest.mapper.calls == []
    assert not exists(guest.target)


async def test_a_device_that_fails_its_checks_is_not_left(guest: Guest) -> None:
    guest.mounts.failures[guest.target] = 5
    message = r"LUN 1 .* on /.*/m1: .*Input/output error.*; dm-verity lets no block pass"
    with pytest.raises(GcsError, match=message):
        await guest.driver.add(guest.layer(guest.root))
    assert guest.mapper.devices == {}
    assert not exists(guest.target)
    assert guest.driver.disks == {}


async def test_a_directory_that_cannot_be_made_leaves_no_device(guest: Guest) -> None:
    guest.mounts.unmade[guest.target] = errno.EROFS
    with pytest.raises(GcsError, match=rf"on {guest.target}: make directory: Read-only"):
        await guest.driver.add(guest.layer(guest.root))
    assert guest.mapper.made
    assert guest.mapper.devices == {}
    assert guest.mounts.calls == []


async def test_a_mapping_that_stays_in_use_is_removed_later(guest: Guest) -> None:
    await guest.driver.add(guest.layer(guest.root))
    guest.mapper.busy.add(guest.name)
    with pytest.raises(GcsError, match="is unmounted, but disk at controller 0, LUN 1 is not free"):
        await guest.driver.remove(guest.layer(guest.root))
    guest.mapper.busy.clear()
    await guest.driver.remove(guest.layer(guest.root))
    assert guest.mapper.devices == {}
    assert guest.driver.disks == {}


async def test_added_again_after_somebody_else_has_unmounted_it(guest: Guest) -> None:
    await guest.driver.add(guest.layer(guest.root))
    guest.mounts.unmount(guest.target)
    await guest.driver.add(guest.layer(guest.root))
    assert list(guest.mapper.devices) == [guest.name]


def test_names_are_as_long_as_the_kernel_takes(guest: Guest) -> None:
    with ExitStack() as undo:
        _, name = make_verified(guest.mapper, str(guest.node), "p" * 60, guest.root, undo)
        assert len(name) == 127
