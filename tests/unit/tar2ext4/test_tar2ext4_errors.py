"""Archives that cannot become an image, and images that cannot be written."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from tar2ext4 import (
    ArchiveError,
    EntryError,
    ImageTooLargeError,
    OutputError,
    convert,
    only_append_vhd_footer,
    root_digest,
)
from tests.support.tar_archives import archive
from tests.support.tar_entries import (
    GNU,
    directory,
    end,
    hard_link,
    header,
    long_name,
    old_sparse,
    padded,
    pattern,
    pax,
    pax_sparse,
    record,
    regular,
    symlink,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tar2ext4.errors import Tar2Ext4Error


def damaged(data: bytes, at: int) -> bytes:
    """The same with another bit."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def records(data: bytes, size: int | None = None) -> bytes:
    """An extended header whose data is no records, or of another size."""
    return header(b"PaxHeaders/0", b"x", len(data) if size is None else size) + padded(data)


def with_mode(field: bytes) -> bytes:
    """A header with a right checksum and a field of its own."""
    block = regular(b"file")[:100] + field + regular(b"file")[108:]
    return block[:148] + b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256) + block[156:]


FILE = regular(b"before", b"x")  # two blocks
SPARSE_1_0 = pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})

DAMAGED: dict[str, tuple[bytes, str]] = {
    "shorter than a header": (b"abc", "byte 0: the archive ends within a header"),
    "cut header": (FILE + FILE[:100], "byte 1024: the archive ends within a header"),
    "cut data": (
        FILE + regular(b"file", bytes(5000))[:4000],
        "file: the archive ends 1512 bytes before its data does",
    ),
    "cut extended header": (pax({b"comment": b"c" * 600})[:900], "the archive ends .* before"),
    "cut map of a sparse file": (
        old_sparse(b"sparse", 90_000, [(n * 1000, b"x") for n in range(8)])[:700],
        "byte 0: the archive ends within a header",
    ),
    "wrong checksum": (
        FILE + damaged(regular(b"file"), 0),
        "byte 1024: no tar header: wrong checksum$",
    ),
    "no archive at all": (pattern(4096), "byte 0: no tar header: wrong checksum$"),
    "gzip": (b"\x1f\x8b" + bytes(600), "compressed with gzip, decompress it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd, decompress it first"),
    "xz": (b"\xfd7zXZ\0" + bytes(600), "compressed with xz, decompress it first"),
    "bzip2": (b"BZh9" + bytes(600), "compressed with bzip2, decompress it first"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(600), "compressed with lz4, decompress it first"),
    "something behind a block of zeros": (
        FILE + bytes(512) + FILE,
        "byte 1024: no tar header behind a block of zeros",
    ),
    "digits that are none": (
        with_mode(b"000x644\0"),
        "is no octal number",
    ),
    "negative size": (header(b"file", b"0", -1), "negative size -1"),
    "number out of range": (header(b"file", b"0", 1 << 80), "a number is out of range"),
    "record without length": (records(b"nolength"), "a record without a length"),
    "record with wrong length": (records(b"99 a=b\n"), "a record with a wrong length"),
    "record that is too short": (records(b"3 =\n"), "a record with a wrong length"),
    "record with a length that is none": (records(b"x a=b\n"), "b'x' is no number"),
    "record without key": (records(b"6 =ab\n"), "a record without a key"),
    "record without value": (records(b"6 abc\n"), "a record without a key"),
    "zero byte in a path": (records(record(b"path", b"a\0b")), "a record without a key"),
    "owner that is no number": (pax({b"uid": b"me"}) + FILE, "b'me' is no number"),
    "owner beyond 64 bits": (pax({b"uid": b"9" * 30}) + FILE, "is no number"),
    "time that is none": (pax({b"mtime": b"1.5x"}) + FILE, "b'1.5x' is no time"),
    "extended header of a MiB": (records(b"", (1 << 20) + 1), "an extended header of 1048577 b"),
    "parts out of order": (
        old_sparse(b"sparse", 90_000, [(8000, b"x" * 600), (4000, b"y")]),
        "parts of a sparse file overlap or are out of order",
    ),
    "parts that overlap": (
        pax_sparse(b"sparse", 90_000, [(4000, b"x" * 600), (4100, b"y")]),
        "parts of a sparse file overlap or are out of order",
    ),
    "part beyond the end": (
        pax_sparse(b"sparse", 100, [(99, b"xx")], "0.1"),
        "the map of a sparse file goes beyond its end",
    ),
    "parts missing from a map": (
        pax({b"GNU.sparse.numblocks": b"3", b"GNU.sparse.map": b"0,1"}) + FILE,
        "has not as many parts as it says",
    ),
    "negative number of parts": (
        SPARSE_1_0 + regular(b"s", padded(b"-1\n")),
        "a negative length",
    ),
    "offset without a length": (
        pax([(b"GNU.sparse.offset", b"1"), (b"GNU.sparse.offset", b"2")]) + FILE,
        "malformed map of a sparse file",
    ),
    "map without an end": (
        SPARSE_1_0 + regular(b"s", padded(b"9\n1\n")),
        "has less data than it needs",
    ),
    "data behind the last part": (
        old_sparse(b"sparse", 90_000, [(0, b"x" * 512)]).replace(
            # The same number of bits, so that the checksum stays right.
            b"00000001000\0" + b"\0" * 72, b"00000000001\0" + b"\0" * 72
        ),
        "sparse: 511 bytes more than its map says",
    ),
    "sparse file in another format": (header(b"sparse", b"S"), "a format that is not known"),
}  # fmt: skip

IMPOSSIBLE: dict[str, tuple[bytes, str]] = {
    "link to nothing": (
        hard_link(b"link", b"dir/none"),
        "^link: a hard link to dir/none, which is not in the archive before it$",
    ),
    "link to what comes later": (
        hard_link(b"link", b"file") + regular(b"file"),
        "^link: a hard link to file, which is not in the archive before it$",
    ),
    "link to a directory": (
        directory(b"dir") + hard_link(b"link", b"dir"),
        "^link: a hard link to dir, which is a directory$",
    ),
    "link over a last name": (
        regular(b"one") + regular(b"two") + hard_link(b"one", b"two"),
        "^one: exists, and a hard link would take the last name of what it is$",
    ),
    "link over a directory": (
        regular(b"file") + directory(b"dir") + hard_link(b"dir", b"file"),
        "^dir: exists, and",
    ),
    "file as a directory": (FILE + regular(b"before/x"), "^before/x: /before is no directory$"),
    "file over a directory": (
        directory(b"dir") + regular(b"dir"),
        "^dir: a file cannot replace a directory$",
    ),
    "directory over a file": (
        FILE + directory(b"before"),
        "^before/: a directory cannot replace a file$",
    ),
    "root as a file": (header(b".", b"0"), "a file cannot replace a directory$"),
    "data written twice": (FILE + FILE, "^before: comes twice in the archive"),
    "long name": (long_name(b"n" * 256) + regular(b"n"), ": not a name: too long, or"),
    "long name of a directory": (
        pax({b"path": b"d" * 256 + b"/file"}) + regular(b"n"),
        ": not a name: too long, or",
    ),
    "file above 128 GiB": (
        header(b"big", b"0", (128 << 30) + 1),
        "^big: 137438953473 bytes; a file may have up to 137438953472$",
    ),
    "attribute above a block": (
        pax({b"SCHILY.xattr.user.large": bytes(4096)}) + regular(b"file"),
        "^file: no room for the extended attribute user.large$",
    ),
    "too many attributes": (
        pax({b"SCHILY.xattr.user.%d" % n: b"v" * 900 for n in range(5)}) + regular(b"file"),
        "^file: no room for the extended attribute user.4$",
    ),
    "long name of an attribute": (
        pax({b"SCHILY.xattr." + b"n" * 256: b""}) + regular(b"file"),
        "^file: the name of an extended attribute has up to 255 bytes; this one has 256$",
    ),
    "attribute without a name": (
        pax({b"SCHILY.xattr.": b"x"}) + regular(b"file"),
        "^file: the name of an extended attribute has up to 255 bytes; this one has 0$",
    ),
    "empty target": (header(b"link", b"2"), "^link: the target of a symbolic link has 1 to 4095"),
    "long target": (symlink(b"link", b"t" * 4096), "this one has 4096$"),
    "unprintable name": (
        hard_link(b"a\nb\xff", b"\x1b[31m"),
        r"^a\\nb\\\\xff: a hard link to \\x1b\[31m, which",
    ),
    "opaque file": (FILE + regular(b"before/.wh..wh..opq"), "/before is no directory$"),
}


def fails(
    data: bytes, kind: type[Tar2Ext4Error], message: str, directory: Path, **options: Any
) -> None:
    """Conversion fails and leaves a file that was there before as it was, and no other."""
    image = directory / "out.img"
    image.write_bytes(b"previous")
    with pytest.raises(kind, match=message) as raised:
        convert(io.BytesIO(data), image, convert_whiteout=True, **options)
    assert "\n" not in str(raised.value)
    assert [path.name for path in directory.iterdir()] == ["out.img"]
    assert image.read_bytes() == b"previous"


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_archives(case: str, tmp_path: Path) -> None:
    data, message = DAMAGED[case]
    fails(data, ArchiveError, message, tmp_path)


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_entries_no_file_system_can_hold(case: str, tmp_path: Path) -> None:
    data, message = IMPOSSIBLE[case]
    fails(data + end(), EntryError, message, tmp_path)


@pytest.mark.parametrize("case", ["cut data", "wrong checksum"])
def test_damage_is_found_with_every_option(case: str, tmp_path: Path) -> None:
    data, message = DAMAGED[case]
    options = {"inline_data": True, "append_dm_verity": True, "append_vhd_footer": True}
    fails(data, ArchiveError, message, tmp_path, **options)


@pytest.mark.parametrize("cut", range(1, 5 * 512, 97))
def test_an_archive_cut_anywhere_is_damaged_or_whole(cut: int, tmp_path: Path) -> None:
    """The end of an archive may be missing; an entry that has begun may not."""
    data = regular(b"a", b"x" * 600) + directory(b"b") + symlink(b"c", b"d")
    whole = cut in (0, 3 * 512, 4 * 512, 5 * 512) or 512 + 600 <= cut < 3 * 512
    image = tmp_path / "out.img"
    if whole:
        convert(io.BytesIO(data[:cut]), image)
        assert image.exists()
    else:
        with pytest.raises(ArchiveError, match="ends"):
            convert(io.BytesIO(data[:cut]), image)
        assert list(tmp_path.iterdir()) == []


def test_names_stay_inside(tmp_path: Path) -> None:
    """`..` and a slash in front lead nowhere but to the root of the image."""
    inside = regular(b"etc/file", b"1") + symlink(b"link", b"../../outside")
    around = regular(b"/../etc/../../etc/./file", b"1") + symlink(b"a/../../link", b"../../outside")
    one, other = tmp_path / "1.img", tmp_path / "2.img"
    # The directory that only `..` leaves again is not made.
    convert(io.BytesIO(inside + end()), one)
    convert(io.BytesIO(around + end()), other)
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.img", "2.img"]


def test_entries_of_unknown_types_are_empty_files(tmp_path: Path) -> None:
    convert(io.BytesIO(header(b"file", b"Z") + end()), tmp_path / "1.img")
    convert(io.BytesIO(header(b"file", b"0") + end()), tmp_path / "2.img")
    assert (tmp_path / "1.img").read_bytes() == (tmp_path / "2.img").read_bytes()


def test_a_limit_of_the_size(tmp_path: Path) -> None:
    data = archive("sizes")
    needed = convert(io.BytesIO(data), tmp_path / "out.img").filesystem_size
    fits = convert(io.BytesIO(data), tmp_path / "fits.img", maximum_disk_size=needed)
    assert fits.filesystem_size == needed
    assert (tmp_path / "fits.img").read_bytes() == (tmp_path / "out.img").read_bytes()
    for limit in (needed - 4096, 2 << 20, 4096):
        with pytest.raises(
            ImageTooLargeError, match=f"small.img: .* its maximum size of {limit} bytes"
        ):
            convert(io.BytesIO(data), tmp_path / "small.img", maximum_disk_size=limit)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fits.img", "out.img"]


def test_a_hole_counts_towards_the_limit(tmp_path: Path) -> None:
    data = old_sparse(b"hole", 1 << 30, [(0, b"x")]) + end()
    with pytest.raises(ImageTooLargeError):
        convert(io.BytesIO(data), tmp_path / "out.img", maximum_disk_size=512 << 20)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk() -> None:
    """`/dev/full` is written in place, as a block device is."""
    with pytest.raises(OutputError, match=r"^/dev/full: cannot write .*No space left .*; free"):
        convert(io.BytesIO(archive("sizes")), "/dev/full")
    with pytest.raises(OutputError, match="No space left"):
        only_append_vhd_footer(io.BytesIO(bytes(4096)), "/dev/full")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    source = io.BytesIO(archive("empty"))
    for place, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "out.img", "No such file or directory"),
        (tmp_path / "file" / "out.img", "Not a directory"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=f"{place}: cannot write the image: {reason}"):
            convert(source, place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.tar"
    for operation in (convert, only_append_vhd_footer):
        with pytest.raises(ArchiveError, match=r"none\.tar: cannot read it: No such file"):
            operation(missing, tmp_path / "out.img")
    with pytest.raises(ArchiveError, match="cannot read it: Is a directory"):
        root_digest(tmp_path)
    assert list(tmp_path.iterdir()) == []


class _Failing(io.BytesIO):
    """A file whose disk breaks behind so many bytes."""

    def __init__(self, data: bytes, good: int) -> None:
        super().__init__(data)
        self.good = good

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() + (size or 0) > self.good:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize(
    ("good", "message"),
    [
        (0, "archive: cannot read it at byte 0: Input/output error"),
        (512, "archive: file: cannot read it: Input/output error"),
        (2048, "archive: cannot read it at byte 2012: Input/output error"),
    ],
)
def test_a_disk_that_breaks_while_it_is_read(good: int, message: str, tmp_path: Path) -> None:
    source = _Failing(regular(b"file", bytes(1500)) + FILE, good)
    with pytest.raises(ArchiveError, match=f"^{message}$"):
        convert(source, tmp_path / "out.img")
    assert list(tmp_path.iterdir()) == []


def test_an_image_keeps_the_permissions_of_what_it_replaces(tmp_path: Path) -> None:
    image = tmp_path / "out.img"
    image.touch()
    image.chmod(0o640)
    link = tmp_path / "link.img"
    link.symlink_to("out.img")
    convert(io.BytesIO(archive("empty")), link)
    assert link.is_symlink()
    assert image.stat().st_mode & 0o777 == 0o640
    assert image.stat().st_size > 0


def test_old_headers_and_signed_checksums(tmp_path: Path) -> None:
    """Some old writers added up signed bytes; the entry is the same."""
    block = regular("näme".encode(), magic=GNU)
    total = sum(block) - sum(block[148:156]) + 256
    signed = total - 256 * sum(byte >= 0x80 for byte in block)
    odd = block[:148] + b"%06o\0 " % signed + block[156:]
    assert odd != block
    convert(io.BytesIO(block + end()), tmp_path / "1.img")
    convert(io.BytesIO(odd + end()), tmp_path / "2.img")
    assert (tmp_path / "1.img").read_bytes() == (tmp_path / "2.img").read_bytes()
