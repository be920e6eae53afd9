"""Images with what unpacking the archive would have given, where the reference refuses it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from tar2ext4 import EntryError, convert
from tests.support.tar_entries import (
    directory,
    end,
    hard_link,
    header,
    pattern,
    pax,
    regular,
    symlink,
    xattrs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tar2ext4.tar_header import Header


def image(data: bytes, path: Path) -> bytes:
    convert(io.BytesIO(data + end()), path / "out.img", as_unpacked=True, convert_whiteout=True)
    return (path / "out.img").read_bytes()


LONG = b"x/" * 40 + b"../" * 40 + b"usr/lib"

#: An archive, and a plainer one with the same image.
SAME: dict[str, tuple[bytes, bytes]] = {
    "through a link": (
        directory(b"usr/lib") + symlink(b"lib", b"usr/lib") + regular(b"lib/a/file", b"x"),
        directory(b"usr/lib") + symlink(b"lib", b"usr/lib") + regular(b"usr/lib/a/file", b"x"),
    ),
    "through an absolute link": (
        directory(b"usr/lib") + symlink(b"opt/lib", b"/usr/lib") + regular(b"opt/lib/file"),
        directory(b"usr/lib") + symlink(b"opt/lib", b"/usr/lib") + regular(b"usr/lib/file"),
    ),
    "through a link that would lead out": (
        directory(b"usr/lib") + symlink(b"a", b"../../../usr/./lib/") + regular(b"a/file"),
        directory(b"usr/lib") + symlink(b"a", b"../../../usr/./lib/") + regular(b"usr/lib/file"),
    ),
    "through a long link": (
        directory(b"usr/lib") + symlink(b"lib", LONG) + regular(b"lib/file", b"x"),
        directory(b"usr/lib") + symlink(b"lib", LONG) + regular(b"usr/lib/file", b"x"),
    ),
    "through links to links": (
        directory(b"d") + symlink(b"b", b"d") + symlink(b"a", b"b") + regular(b"a/./file"),
        directory(b"d") + symlink(b"b", b"d") + symlink(b"a", b"b") + regular(b"d/file"),
    ),
    "hard link through a link": (
        regular(b"d/file") + symlink(b"l", b"d") + hard_link(b"l/second", b"l/file"),
        regular(b"d/file") + symlink(b"l", b"d") + hard_link(b"d/second", b"d/file"),
    ),
    "hard link to a link": (
        symlink(b"l", b"d") + directory(b"d") + hard_link(b"second", b"l"),
        symlink(b"l", b"d") + directory(b"d") + hard_link(b"second", b"./l"),
    ),
    "file twice": (
        regular(b"file") + regular(b"file", b"second", mode=0o600),
        regular(b"file", b"second", mode=0o600),
    ),
    "attributes of what was replaced": (
        pax(xattrs(user__a=b"1")) + regular(b"file") + regular(b"file"),
        regular(b"file"),
    ),
    "directory for a file": (regular(b"a") + directory(b"a"), directory(b"a")),
    "file for an empty directory": (directory(b"a") + regular(b"a"), regular(b"a")),
    "link for a file": (regular(b"a") + symlink(b"a", b"b"), symlink(b"a", b"b")),
    "hard link for a file": (
        regular(b"a") + regular(b"b") + hard_link(b"b", b"a"),
        regular(b"a") + hard_link(b"b", b"a"),
    ),
    "hard link to itself": (regular(b"a") + hard_link(b"a", b"a"), regular(b"a")),
    "whiteout of a file of the layer": (
        regular(b"a") + regular(b".wh.a"),
        regular(b".wh.a"),
    ),
    "a link that leads elsewhere later": (
        directory(b"d") + directory(b"e") + symlink(b"a", b"d") + regular(b"a/f")
        + symlink(b"a", b"e") + regular(b"a/g"),
        directory(b"d") + directory(b"e") + symlink(b"a", b"e") + regular(b"d/f") + regular(b"e/g"),
    ),
    "directory that is missing": (
        directory(b"", mode=0o1777, uid=5) + regular(b"a/file"),
        directory(b"", mode=0o1777, uid=5) + directory(b"a", mode=0o755) + regular(b"a/file"),
    ),
    "global header": (
        pax({b"uid": b"7", b"comment": b"c"}, b"g") + regular(b"a") + regular(b"b", uid=1),
        regular(b"a", uid=7) + regular(b"b", uid=7),
    ),
    "attributes of unknown kinds": (
        pax({b"SCHILY.xattr.other": b"1", b"SCHILY.xattr.user.a": b"2"}) + regular(b"a"),
        pax({b"SCHILY.xattr.user.a": b"2"}) + regular(b"a"),
    ),
    "lists that are none": (
        pax({b"SCHILY.xattr.system.posix_acl_access": b"\2\0\0\0abc"}) + regular(b"a"),
        regular(b"a"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_what_becomes_of_an_archive(case: str, tmp_path: Path) -> None:
    data, plain = SAME[case]
    assert image(data, tmp_path) == image(plain, tmp_path)


def test_an_opaque_directory_keeps_its_list(tmp_path: Path) -> None:
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    made = pax(xattrs(system__posix_acl_default=acl, user__a=b"1")) + directory(b"d")
    data = made + regular(b"d/.wh..wh..opq")
    marked = pax(xattrs(system__posix_acl_default=acl, user__a=b"1", trusted__overlay__opaque=b"y"))
    assert image(data, tmp_path) == image(marked + directory(b"d"), tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (regular(b"d/file") + regular(b"d"), "^d: a file cannot replace a directory with files$"),
        (regular(b"d/file") + regular(b".wh.d"), "^d: a file cannot replace a directory with"),
        (
            regular(b"a") + regular(b"d/file") + hard_link(b"d", b"a"),
            "^d: a file cannot replace a directory with files$",
        ),
        (
            symlink(b"a", b"b") + symlink(b"b", b"a") + regular(b"a/file"),
            "^a: too many symbolic links lead to it$",
        ),
        (
            symlink(b"a", b"f") + regular(b"f") + regular(b"a/file"),
            "^a/file: /f is no directory$",
        ),
        (header(b".", b"0"), "a file cannot replace a directory$"),
        (hard_link(b"a", b"b/c"), "^a: a hard link to b/c, which is not in the archive"),
    ],
)
def test_what_no_unpacking_gives(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(EntryError, match=message):
        image(data, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_entries_can_be_examined(tmp_path: Path) -> None:
    """They can be changed, left out, and refused."""

    def examine(header_: Header) -> bool:
        if header_.name == b"evil":
            raise ValueError("refused")
        header_.uid = 9
        return header_.name != b"not this"

    def made(data: bytes) -> bytes:
        convert(io.BytesIO(data + end()), tmp_path / "out.img", examine=examine)
        return (tmp_path / "out.img").read_bytes()

    left_out = regular(b"a") + regular(b"not this", pattern(3 << 20)) + regular(b"b")
    plain = made(regular(b"a") + regular(b"b"))
    assert made(left_out) == plain
    with pytest.raises(ValueError, match="refused"):
        made(regular(b"evil"))
    assert (tmp_path / "out.img").read_bytes() == plain
