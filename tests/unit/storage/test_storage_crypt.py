"""Encrypted scratch disks: what is asked of the kernel, and what is left when it refuses (5.6)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import MappedVirtualDisk
from gcs.storage import filesystem
from gcs.storage.crypt import BLOCK, KEY_BYTES, crypt_target, first_read_blocks
from gcs.storage.virtual_disk import VirtualDiskDriver
from tests.support.mapper import RecordingMapper
from tests.support.storage import MIB, RecordingMounts, SystemTree, blank, exists, with_ext4

if TYPE_CHECKING:
    from pathlib import Path

CRYPT = "dm-crypt-scsi-contr0-lun1-p0"
INTEGRITY = f"{CRYPT}-integrity"


class Guest:
    """A VM with a disk at LUN 1 that had an ext4 file system."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree = SystemTree(directory / "root")
        tree.add_pci_host(slot=3, number=0)
        self.node = with_ext4(tree.add_disk(0, 1, "sdb"))
        blank(self.node, 16 * MIB)
        self.target = str(directory / "m1")
        self.mounts = RecordingMounts()
        self.mapper = RecordingMapper(directory / "mapper")
        self.driver = VirtualDiskDriver(tree.bus(), self.mounts, self.mapper)
        self.formatted: list[tuple[str, str]] = []
        self.format_error: GcsError | None = None
        monkeypatch.setattr(filesystem, "make_filesystem", self._format)

    def _format(self, device: str, kind: str, *, limit: float) -> None:
        assert limit > 0
        self.formatted.append((device, kind))
        if self.format_error is not None:
            raise self.format_error

    def scratch(self, **settings: Any) -> MappedVirtualDisk:
        values: dict[str, Any] = {
            "mount_path": self.target,
            "lun": 1,
            "encrypted": True,
            "ensure_filesystem": True,
            "filesystem": "xfs",
        } | settings
        return MappedVirtualDisk(**values)

    def is_untouched(self) -> bool:
        return not (self.mapper.devices or self.mounts.table or exists(self.target))


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


async def test_an_encrypted_scratch(guest: Guest) -> None:
    await guest.driver.add(guest.scratch())
    assert guest.mapper.calls == [
        ("create", f"{INTEGRITY} integrity"),  # to learn how much room the tags leave
        ("remove", INTEGRITY),
        ("create", f"{INTEGRITY} integrity"),
        ("create", f"{CRYPT} crypt secret"),
    ]
    node = str(guest.mapper.directory / CRYPT)
    assert guest.formatted == [(node, "xfs")]
    assert guest.mounts.mount_calls() == [(node, guest.target, "xfs", 0, "")]
    (lower,) = guest.mapper.devices[INTEGRITY]
    assert lower.parameters == f"{guest.node} 0 32 D 1 block_size:4096"
    # The half of 16 MiB that the double leaves for data.
    (upper,) = guest.mapper.devices[CRYPT]
    assert upper.sectors == lower.sectors == 16 * MIB // 512 // 2
    # A v1 host does not say again that it was encrypted.
    await guest.driver.remove(MappedVirtualDisk(mount_path=guest.target, lun=1))
    assert guest.mapper.calls[-2:] == [("remove", CRYPT), ("remove", INTEGRITY)]
    assert guest.is_untouched()


async def test_each_key_is_another_one_and_on_no_file_system(guest: Guest, tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        await guest.driver.add(guest.scratch())
        keys.append(guest.mapper.devices[CRYPT][0].parameters.split()[1])
        await guest.driver.remove(guest.scratch())
    assert keys[0] != keys[1]
    assert len(bytes.fromhex(keys[0])) == KEY_BYTES
    assert not any(holds(tmp_path, key) for key in keys)


def holds(directory: Path, key: str) -> bool:
    """Whether a file below a directory holds a key, in whatever form."""
    contents = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    assert contents
    return any(bytes.fromhex(key) in text or key.encode() in text for text in contents)


def test_the_table_of_dm_crypt() -> None:
    target = crypt_target("/dev/x", 80, b"\x01" * KEY_BYTES)
    cipher, key, *rest = target.parameters.split()
    assert cipher == "capi:authenc(hmac(sha256),xts(aes))-plain64"
    assert key == "01" * KEY_BYTES
    assert rest == ["0", "/dev/x", "0", "2", "integrity:32:aead", "sector_size:4096"]


@pytest.mark.parametrize("name", [INTEGRITY, CRYPT])
async def test_what_the_kernel_refuses_leaves_nothing(guest: Guest, name: str) -> None:
    guest.mapper.failures[name] = errno.ENOENT
    message = rf"LUN 1 .* on /.*/m1: device mapper: No such file or directory: '{name}'"
    with pytest.raises(GcsError, match=message):
        await guest.driver.add(guest.scratch())
    assert guest.is_untouched()


async def test_a_file_system_that_cannot_be_made_leaves_nothing(guest: Guest) -> None:
    guest.format_error = GcsError("mkfs.xfs failed")
    with pytest.raises(GcsError, match=r"mkfs\.xfs failed"):
        await guest.driver.add(guest.scratch())
    assert guest.is_untouched()


async def test_a_mount_that_fails_leaves_nothing(guest: Guest) -> None:
    guest.mounts.failures[guest.target] = errno.EIO
    with pytest.raises(GcsError, match="Input/output error"):
        await guest.driver.add(guest.scratch())
    assert guest.is_untouched()


@pytest.mark.parametrize("name", [INTEGRITY, CRYPT])
async def test_a_mapping_that_stays_in_use_keeps_its_key_until_the_next_remove(
    guest: Guest, name: str
) -> None:
    await guest.driver.add(guest.scratch())
    guest.mapper.busy.add(name)
    with pytest.raises(GcsError, match=rf"/m1 is unmounted, but disk .* LUN 1 .*'{name}'"):
        await guest.driver.remove(guest.scratch())
    guest.mapper.busy.clear()
    await guest.driver.remove(guest.scratch())
    assert guest.is_untouched()


async def test_what_cannot_be_made_is_refused_before_the_disk_is_lost(guest: Guest) -> None:
    with_ext4(guest.node)
    with pytest.raises(GcsError, match="unsupported filesystem 'btrfs'"):
        await guest.driver.add(guest.scratch(filesystem="btrfs"))
    assert filesystem.detect(str(guest.node)) == "ext4"
    assert guest.is_untouched()


async def test_a_disk_that_is_too_small(guest: Guest) -> None:
    with_ext4(guest.node)
    blank(guest.node, MIB // 2)
    with pytest.raises(GcsError, match="has 524288 bytes; an encrypted one needs 1048576"):
        await guest.driver.add(guest.scratch())
    assert guest.is_untouched()


def test_blocks_that_are_written_first() -> None:
    group = BLOCK * 8
    assert first_read_blocks(10) == list(range(10))
    assert first_read_blocks(group * 10)[32:] == [group * n for n in (1, 3, 5, 7, 9)]
    large = first_read_blocks(1 << 32)
    assert len(large) < 100
    assert large[-1] < 1 << 32
