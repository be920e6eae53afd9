"""Tar archives: one for each thing that can be in one.

The bytes depend on nothing but the arguments, for digests of what becomes of them stand in tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.tar_entries import (
    GNU,
    V7,
    directory,
    end,
    hard_link,
    header,
    long_name,
    number,
    old_sparse,
    padded,
    pattern,
    pax,
    pax_sparse,
    regular,
    symlink,
    xattrs,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _sizes() -> bytes:
    sizes = (0, 1, 59, 60, 61, 119, 135, 136, 137, 4095, 4096, 4097, 65536, 3 << 20)
    return b"".join(regular(b"size_%d" % n, pattern(n, n)) for n in sizes)


def _symlinks() -> bytes:
    lengths = (1, 58, 59, 60, 61, 99, 100, 101, 300, 4095)
    return b"".join(symlink(b"link_%d" % n, pattern(n, n).hex().encode()[:n]) for n in lengths)


def _devices() -> bytes:
    return b"".join(
        (
            directory(b"dev"),
            header(b"dev/fifo", b"6"),
            header(b"dev/block", b"4", device=(0x567, 0x12345)),
            header(b"dev/character", b"3", device=(5, 1), mode=0o6666),
            header(b"dev/large", b"3", device=(0x567890, 0x123456)),
        )
    )


def _owners_and_times() -> bytes:
    times = {b"mtime": b"1600000000.123456789", b"atime": b"-1.5", b"ctime": b"15032385535.9"}
    return b"".join(
        (
            regular(b"owner", b"x", uid=65536, gid=70000),
            regular(b"owner_binary", b"x", uid=0x7FFFFFFF, gid=-2),
            pax({b"uid": b"4294967294", b"gid": b"-1"}) + regular(b"owner_pax"),
            pax(times) + regular(b"times", b"x"),
            regular(b"before_1970", mtime=-1),
            regular(b"before_1901", mtime=-0x80000001),
            regular(b"after_2446", mtime=0x380000000),
            regular(b"year_one", mtime=-62135596800),
            pax({b"mtime": b"-0.25"}) + directory(b"old"),
            regular(b"old/implied/file", b"inherits a time before 1970"),
            pax({b"mtime": b"7.000000001999"}) + regular(b"nanosecond"),
            regular(b"setuid", mode=0o6755),
            regular(b"file_type_in_mode", mode=0o120644),
        )
    )


def _names() -> bytes:
    times = number(3, 12) + number(4, 12)
    deep = b"/".join(b"d%d" % n for n in range(60))
    return b"".join(
        (
            regular(b"./dot", b"1"),
            regular(b"/absolute", b"2"),
            regular(b"../../above", b"3"),
            regular(b"a/./b/../c//d", b"4"),
            directory(b"./"),
            long_name(deep + b"/" + b"n" * 255) + regular(b"cut", b"5", magic=GNU),
            pax({b"path": b"p" * 200 + b"/" + b"q" * 255}) + regular(b"cut", b"6"),
            regular("héllo wörld ☃".encode(), b"7"),
            regular(b"\xff\xfe not UTF-8", b"8"),
            regular(b"name", b"9", tail=b"prefix/of/ustar"),
            header(b"old_directory/", b"\0", magic=V7),
            header(b"old_file", b"\0", 3, magic=V7) + padded(b"old"),
            header(b"contiguous", b"7", 3) + padded(b"777"),
            regular(b"back\\slash\\es", b"10"),
            regular(b"gnu_prefix", b"11", magic=GNU, tail=b"not/octal"),
            regular(b"gnu_times", magic=GNU, tail=number(5, 12) + number(-5, 12)),
            regular(b"star", tail=b"of".ljust(131, b"\0") + times + bytes(8) + b"tar\0"),
        )
    )  # fmt: skip


def _links() -> bytes:
    return b"".join(
        (
            regular(b"file", pattern(5000)),
            hard_link(b"b_link", b"file"),
            directory(b"dir"),
            hard_link(b"dir/link", b"./file"),
            symlink(b"symlink", b"file"),
            hard_link(b"link_to_symlink", b"symlink"),
            symlink(b"long_symlink", b"t" * 90),
            hard_link(b"link_to_long_symlink", b"long_symlink"),
            hard_link(b"made/for/link", b"file"),
            # The first name goes elsewhere, the file stays.
            regular(b"file", b"another"),
            hard_link(b"b_link", b"file"),
        )
    )


def _whiteouts() -> bytes:
    return b"".join(
        (
            regular(b"foo/.wh.bar.txt", b"inside bar.txt"),
            directory(b"data"),
            regular(b"root.txt", b"inside root.txt"),
            directory(b"foo", mode=0o700, uid=5),
            regular(b"A/.wh..wh..opq"),
            regular(b"A/B/b.txt", b"inside b.txt"),
            regular(b"A/a.txt", b"inside a.txt"),
            directory(b"A"),
            directory(b"A/B"),
            pax(xattrs(user__a=b"1", user__large=pattern(3000))) + directory(b"C"),
            regular(b"C/.wh..wh..opq"),
            regular(b".wh..wh..opq"),
            regular(b".wh.at_root"),
            regular(b"C/.wh.with\\backslash"),
            hard_link(b"C/.wh.link", b"nowhere"),
        )
    )


def _attributes() -> bytes:
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    many = {b"SCHILY.xattr.user.%s" % (b"n" * (n % 7 + 1) + b"%d" % n): b"v" * n for n in range(60)}
    mixed = {
        b"SCHILY.xattr.%s%s"
        % ((b"user.", b"trusted.", b"security.", b"other.")[n % 4], b"%d" % n): b""
        for n in range(150)
    }
    return b"".join(
        (
            pax(xattrs(user__foo=b"test", user__bar=b"test2")) + regular(b"small", b"x"),
            pax(xattrs(user__foo=pattern(100), user__bar=pattern(50))) + regular(b"large", b"x"),
            pax(xattrs(security__capability=bytes(20))) + regular(b"capability", pattern(200)),
            pax(xattrs(system__posix_acl_access=acl, user__z=b"1")) + regular(b"acl"),
            pax(xattrs(system__posix_acl_default=acl, trusted__x=b"2")) + directory(b"acl_dir"),
            directory(b"acl_dir", mode=0o711),
            pax(many) + regular(b"many", pattern(10)),
            pax(mixed) + regular(b"mixed"),
            pax(xattrs(user__empty=b"")) + symlink(b"link", b"to"),
            pax(xattrs(user__on_inline=b"value")) + regular(b"inline", pattern(70)),
            pax(xattrs(user__on_inline=b"value" * 20)) + regular(b"inline_block", pattern(136)),
            pax(xattrs(user__on_long=b"value" * 20)) + symlink(b"long", b"to" * 40),
        )
    )  # fmt: skip


def _replaced() -> bytes:
    return b"".join(
        (
            directory(b"dir", mode=0o777),
            regular(b"dir/file"),
            directory(b"dir", mode=0o700),
            directory(b"lost+found", mode=0o755),
            directory(b"", mode=0o1777, uid=3),
            regular(b"file"),
            regular(b"file", pattern(9000), mode=0o600),
            regular(b"device"),
            header(b"device", b"3", device=(1, 3)),
            header(b"device", b"6"),
            symlink(b"link", b"one"),
            symlink(b"link", b"two"),
            symlink(b"link_file", b"one"),
            regular(b"link_file", b"three"),
            pax(xattrs(user__a=b"1")) + regular(b"merged"),
            pax(xattrs(user__b=b"2")) + regular(b"merged"),
            pax(xattrs(user__s=b"1", user__l=pattern(200))) + regular(b"block"),
            pax(xattrs(user__s=b"2", user__l=pattern(400))) + regular(b"block"),
            pax(xattrs(user__l=pattern(300))) + regular(b"block_lost"),
            regular(b"block_lost"),
            pax(xattrs(user__l=pattern(300))) + directory(b"block_kept"),
            directory(b"block_kept"),
        )
    )


def _sparse_files() -> bytes:
    parts = [(8192, pattern(4096)), (1 << 20, pattern(1000)), (3 << 20, b"")]
    many = [(n * 10000, pattern(512, n)) for n in range(30)]
    return b"".join(
        (
            old_sparse(b"old", 3 << 20, parts),
            old_sparse(b"old_many", 300_000, many),
            pax_sparse(b"pax_1.0", 3 << 20, parts),
            pax_sparse(b"pax_0.1", 3 << 20, parts, "0.1"),
            pax_sparse(b"pax_0.0", 3 << 20, parts, "0.0"),
            pax_sparse(b"pax_many", 300_000, many),
            old_sparse(b"small", 100, [(10, b"abc")]),
            old_sparse(b"nothing", 50_000, []),
            regular(b"after", b"after"),
        )
    )


def _global_header() -> bytes:
    records = {b"comment": b"0123456789", b"path": b"in/global"}
    return b"".join(
        (
            pax({b"comment": b"0123"}, b"g"),
            directory(b"dir"),
            regular(b"dir/file", b"x"),
            pax(records, b"g"),
            regular(b"dir/other", b"y"),
        )
    )


def _many_files() -> bytes:
    return directory(b"many") + b"".join(
        header(b"many/%d%s" % (n, b"n" * (n % 90))) for n in range(3000)
    )


def _many_directories() -> bytes:
    return b"".join(directory(b"%d/%d/%d" % (n % 3, n % 50, n)) for n in range(1000))


def _big_file() -> bytes:
    # Five extents of 128 MiB; hardly a byte of it in the archive.
    return old_sparse(b"big", 513 << 20, [(5000, b"begin"), (512 << 20, b"end")])


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "sizes": _sizes,
    "symlinks": _symlinks,
    "devices": _devices,
    "owners_and_times": _owners_and_times,
    "names": _names,
    "links": _links,
    "whiteouts": _whiteouts,
    "attributes": _attributes,
    "replaced": _replaced,
    "sparse_files": _sparse_files,
    "global_header": _global_header,
    "many_files": _many_files,
    "many_directories": _many_directories,
    "big_file": _big_file,
}


def archive(name: str) -> bytes:
    """One of `ARCHIVES`, with its end."""
    return ARCHIVES[name]() + end()
