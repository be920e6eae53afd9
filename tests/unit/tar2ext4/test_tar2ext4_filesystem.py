"""Limits of the file system, and what becomes of a file that comes again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tar2ext4 import filesystem, layout, timestamps
from tar2ext4.errors import EntryError, ImageTooLargeError
from tar2ext4.filesystem import File, FileSystem
from tar2ext4.layout import S_IFDIR, S_IFLNK
from tar2ext4.names import clean
from tar2ext4.output import ImageFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = S_IFDIR | 0o755


@pytest.fixture
def image(tmp_path: Path) -> Iterator[ImageFile]:
    descriptor = os.open(tmp_path / "out.img", os.O_RDWR | os.O_CREAT)
    yield ImageFile(descriptor, "out.img", 16 << 30)
    os.close(descriptor)


@pytest.fixture
def files(image: ImageFile) -> FileSystem:
    return FileSystem(image, 16 << 30)


def test_a_file_has_up_to_65000_links(files: FileSystem) -> None:
    files.create(b"file", File(0o644))
    for number in range(64999):
        files.link(b"file", b"link%d" % number)
    with pytest.raises(EntryError, match="link64999: file has 65000 links already"):
        files.link(b"file", b"link64999")
    # One name for another is no more links.
    files.link(b"file", b"link5")
    files.finish()


def test_a_directory_has_up_to_64998_subdirectories(
    files: FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each takes a block, which would take a while.
    assert layout.MAX_LINKS == 65000
    monkeypatch.setattr(filesystem, "MAX_LINKS", 300)
    files.create(b"dir", File(DIRECTORY))
    for number in range(298):
        files.create(b"dir/%d" % number, File(DIRECTORY))
    with pytest.raises(EntryError, match="dir/x: its directory has 298 subdirectories already"):
        files.create(b"dir/x", File(DIRECTORY))
    with pytest.raises(EntryError, match="/dir/y: its directory has 298 subdirectories already"):
        files.create(b"dir/y/file", File(0o644))
    files.create(b"dir/file", File(0o644))
    files.finish()


def test_what_may_come_again(files: FileSystem) -> None:
    """The steps of the reference's own test of replacements."""
    with pytest.raises(EntryError, match="cannot replace"):
        files.create(b"lost+found", File(0))
    files.create(b"lost+found", File(S_IFDIR | 0o777))
    files.create(b"dir", File(S_IFDIR | 0o777))
    files.create(b"dir/file", File(0))
    files.create(b"dir", File(S_IFDIR | 0o700))
    files.create(b"file", File(0))
    files.create(b"file", File(0o600))
    files.create(b"file2", File(0))
    files.link(b"file2", b"link")
    files.create(b"file2", File(0o600))
    files.create(b"nolinks", File(0))
    with pytest.raises(EntryError, match="would take the last name"):
        files.link(b"file", b"nolinks")
    files.create(b"onelink", File(0))
    files.link(b"onelink", b"onelink2")
    files.link(b"file", b"onelink")
    with pytest.raises(EntryError, match="cannot replace"):
        files.create(b"", File(0))
    with pytest.raises(EntryError, match="would take the last name"):
        files.link(b"file", b"")
    files.create(b"", File(S_IFDIR | 0o777))
    files.finish()


def test_more_groups_than_the_limit_has_descriptors_for(tmp_path: Path) -> None:
    with (tmp_path / "large.img").open("w+b") as file:
        image = ImageFile(file.fileno(), "large.img", 64 << 30)
        # One block of descriptors, for 128 groups of 128 MiB.
        files = FileSystem(image, 128 << 20)
        files.create(b"file", File(0, size=17 << 30), [1 << 30] * 17)
        with pytest.raises(ImageTooLargeError, match=r"^12 files need 137 .* room for 128$"):
            files.finish()


def test_content_of_another_size(files: FileSystem) -> None:
    with pytest.raises(Exception, match="file: 3 bytes of 5"):
        files.create(b"file", File(0, size=5), [b"abc"])


def test_an_empty_target(files: FileSystem) -> None:
    with pytest.raises(EntryError, match="link: the target of a symbolic link has 1 to 4095"):
        files.create(b"link", File(S_IFLNK, target=b"a\0b"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"", []),
        (b"/", []),
        (b"a//b/./c/", [b"a", b"b", b"c"]),
        (b"../a", [b"a"]),
        (b"a/../../b", [b"b"]),
        (b"..a/b..", [b"..a", b"b.."]),
    ],
)
def test_clean_names(name: bytes, parts: list[bytes]) -> None:
    assert clean(name) == parts


@pytest.mark.parametrize(
    "time",
    [
        (0, 1),
        (1_600_000_000, 123_456_789),
        (0x7FFFFFFF, 999_999_999),
        (0x37FFFFFFF, 0),
        (-0x80000000, 0),
        (-1, 0),
    ],
)
def test_times_there_and_back(time: tuple[int, int]) -> None:
    encoded = timestamps.encode(time)
    if time[0] >= 0:
        assert timestamps.decode(encoded) == time
    else:
        # Earlier ones get all higher bits, as the reference writes them.
        assert encoded & 0xFFFFFFFF == time[0] & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("time", "encoded"),
    [
        # Examples of https://docs.kernel.org/filesystems/ext4/inodes.html, "Inode Timestamps".
        ((-0x80000000, 0), 0x80000000),
        ((-1, 5), 0xFFFFFFFF | 5 << 34),
        ((0x7FFFFFFF, 0), 0x7FFFFFFF),
        ((0x80000000, 0), 0x1_80000000),
        ((0xFFFFFFFF, 0), 0x1_FFFFFFFF),
        ((0x1_00000000, 0), 0x1_00000000),
        ((0x1_80000000, 7), 0x2_80000000 | 7 << 34),
        ((0x3_7FFFFFFF, 0), 0x3_7FFFFFFF),
        ((0x3_80000000, 9), 0x3_7FFFFFFF),
        ((-0x80000001, 9), 0x80000000),
    ],
)
def test_times_as_a_kernel_reads_them(time: tuple[int, int], encoded: int) -> None:
    assert timestamps.encode_for_kernel(time) == encoded
    if -0x80000000 <= time[0] <= 0x3_7FFFFFFF:
        assert timestamps.decode_from_kernel(encoded) == time


@pytest.mark.parametrize(
    ("requested", "size"),
    [
        (None, 16 << 30),
        (0, 16 << 30),
        (1, 4096),
        (4097, 8192),
        (-1, 16 << 40),
        (16 << 40, 16 << 40),
        ((16 << 40) + 1, 16 << 40),
    ],
)
def test_limits(requested: int | None, size: int) -> None:
    assert layout.maximum_disk_size(requested) == size


def test_the_largest_disk(image: ImageFile) -> None:
    files = FileSystem(image, layout.LARGEST_DISK_SIZE)
    files.create(b"file", File(0))
    files.finish()
    # A descriptor of 32 bytes for each 128 MiB are 4 MiB of them, which is a hole.
    assert image.position > 4 << 20
