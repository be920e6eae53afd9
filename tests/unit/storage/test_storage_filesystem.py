"""File systems recognised and made, on image files."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.storage.filesystem import detect, is_mountable, make_filesystem, read_only_data
from tests.support.storage import MIB, blank, with_magic

if TYPE_CHECKING:
    from pathlib import Path

# mkfs.xfs refuses smaller ones.
XFS_SIZE = 300 * MIB


@pytest.mark.parametrize("tool", ["mkfs.ext2", "mkfs.ext3", "mkfs.ext4"])
def test_the_ext_family_is_ext4(tmp_path: Path, tool: str) -> None:
    image = blank(tmp_path / "image", 4 * MIB)
    subprocess.run([tool, "-q", image], check=True)
    assert detect(str(image)) == "ext4"


@pytest.mark.parametrize(("kind", "size"), [("ext4", 4 * MIB), ("xfs", XFS_SIZE)])
def test_what_is_made_is_recognised(tmp_path: Path, kind: str, size: int) -> None:
    image = blank(tmp_path / "image", size)
    make_filesystem(str(image), kind, limit=60)
    assert detect(str(image)) == kind


@pytest.mark.parametrize(
    ("kind", "offset", "content"),
    [
        ("btrfs", 0x10040, b"_BHRfS_M"),
        ("erofs", 1024, 0xE0F5E1E2.to_bytes(4, "little")),
        ("squashfs", 0, b"hsqs"),
        ("vfat", 82, b"FAT32   "),
        ("vfat", 54, b"FAT16   "),
        ("exfat", 3, b"EXFAT   "),
        ("ntfs", 3, b"NTFS    "),
        ("f2fs", 1024, 0xF2F52010.to_bytes(4, "little")),
        ("iso9660", 0x8001, b"CD001"),
    ],
)
def test_other_file_systems(tmp_path: Path, kind: str, offset: int, content: bytes) -> None:
    image = with_magic(tmp_path / "image", offset, content)
    assert detect(str(image)) == kind
    assert is_mountable(kind)


@pytest.mark.parametrize(
    ("kind", "offset", "content"),
    [
        ("LUKS", 0, b"LUKS\xba\xbe\x00\x02"),
        ("swap", 4086, b"SWAPSPACE2"),
        ("LVM", 512, b"LABELONE"),
        ("RAID", 4096, 0xA92B4EFC.to_bytes(4, "little")),
        ("dm-verity hashes", 0, b"verity\0\0"),
        ("partition table", 512, b"EFI PART"),
        ("partition table", 450, b"\x83" + bytes(59) + b"\x55\xaa"),
    ],
)
def test_what_is_there_but_no_file_system(
    tmp_path: Path, kind: str, offset: int, content: bytes
) -> None:
    image = with_magic(tmp_path / "image", offset, content)
    assert detect(str(image)) == kind
    assert not is_mountable(kind)


@pytest.mark.parametrize("content", [b"", b"\x53\xef", bytes(MIB), b"\xff" * MIB])
def test_nothing_is_recognised_in_noise_or_in_next_to_nothing(
    tmp_path: Path, content: bytes
) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    assert not detect(str(image))
    assert not is_mountable("")


def test_a_boot_sector_without_partitions_is_no_partition_table(tmp_path: Path) -> None:
    image = with_magic(tmp_path / "image", 510, b"\x55\xaa")
    assert not detect(str(image))


def test_an_unreadable_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        detect(str(tmp_path / "missing"))


def test_only_journals_are_kept_from_replaying() -> None:
    kinds = ("ext4", "xfs", "erofs", "squashfs")
    assert [read_only_data(kind) for kind in kinds] == ["noload", "norecovery", "", ""]


@pytest.mark.parametrize("kind", ["", "ntfs", "ext4 -F"])
def test_what_cannot_be_made_is_refused(tmp_path: Path, kind: str) -> None:
    image = blank(tmp_path / "image", 4 * MIB)
    with pytest.raises(GcsError, match=r"unsupported filesystem .* requested for device .*/image"):
        make_filesystem(str(image), kind, limit=60)
    assert image.read_bytes() == bytes(4 * MIB)


def test_the_output_of_a_failed_mkfs_is_shown(tmp_path: Path) -> None:
    image = blank(tmp_path / "image", 8192)
    with pytest.raises(
        GcsError, match=r"(?s)`mkfs.xfs -f /.*/image` failed with status 1: .*(size|too small)"
    ):
        make_filesystem(str(image), "xfs", limit=60)


def test_a_program_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GcsError, match=r"mkfs.xfs is not in the guest's image"):
        make_filesystem("/dev/sdz", "xfs", limit=60)


def test_a_program_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "mkfs.ext4"
    tool.write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GcsError, match=r"format /dev/sdz as ext4: .*timed out"):
        make_filesystem("/dev/sdz", "ext4", limit=0.2)
