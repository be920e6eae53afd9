"""Tar archives, byte by byte: ordinary ones, odd ones, and any number of random ones.

The bytes depend on nothing but the arguments, for digests of what becomes of them stand in tests.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

BLOCK = 512
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ from block to block."""
    unit = hashlib.sha256(seed.to_bytes(4, "big")).digest() + size.to_bytes(8, "big")
    return (unit * (size // len(unit) + 1))[:size]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def number(value: int, width: int) -> bytes:
    """Octal, or binary where octal has no room."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (value & (1 << 8 * width) - 1 | 1 << 8 * width - 1).to_bytes(width, "big")


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int = 0,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = USTAR,
    tail: bytes = b"",
) -> bytes:
    """A header with a checksum; `tail` is what goes behind the device numbers (a prefix, …)."""
    devices = number(device[0], 8) + number(device[1], 8) if magic != V7 else bytes(16)
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            number(mode, 8),
            number(uid, 8),
            number(gid, 8),
            number(size, 12),
            number(mtime, 12),
            b" " * 8,
            kind,
            target[:100].ljust(100, b"\0"),
            magic,
            b"root".ljust(32, b"\0"),
            b"root".ljust(32, b"\0"),
            devices,
            tail,
        )
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def record(key: bytes, value: bytes) -> bytes:
    """A record of an extended header, with its own length in front."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def pax(
    records: Mapping[bytes, bytes] | Sequence[tuple[bytes, bytes]], kind: bytes = b"x"
) -> bytes:
    """An extended header."""
    pairs = records if not hasattr(records, "items") else list(records.items())
    data = b"".join(record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/0", kind, len(data)) + padded(data)


def xattrs(**values: bytes) -> dict[bytes, bytes]:
    """Records with extended attributes; `__` in a keyword stands for a dot."""
    return {
        b"SCHILY.xattr." + key.replace("__", ".").encode(): value for key, value in values.items()
    }


def regular(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    return header(name, b"0", len(data), **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, **fields: object) -> bytes:
    return header(name + b"/", b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    records = pax({b"linkpath": target}) if len(target) > 100 else b""
    return records + header(name, b"2", mode=0o777, target=target)


def hard_link(name: bytes, target: bytes) -> bytes:
    return header(name, b"1", target=target)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's way to a name, or a target, of any length."""
    data = name + b"\0"
    return header(b"././@LongLink", kind, len(data), magic=GNU) + padded(data)


def end() -> bytes:
    return bytes(2 * BLOCK)


def old_sparse(name: bytes, size: int, parts: Sequence[tuple[int, bytes]]) -> bytes:
    """A sparse file in GNU's old format."""
    entries = [number(offset, 12) + number(len(data), 12) for offset, data in parts]
    first, rest = b"".join(entries[:4]).ljust(96, b"\0"), entries[4:]
    tail = bytes(41) + first + (b"\1" if rest else b"\0") + number(size, 12)
    body = b"".join(data for _, data in parts)
    extensions = b""
    while rest:
        here, rest = rest[:21], rest[21:]
        extensions += (b"".join(here).ljust(504, b"\0") + (b"\1" if rest else b"\0")).ljust(
            BLOCK, b"\0"
        )
    return header(name, b"S", len(body), magic=GNU, tail=tail) + extensions + padded(body)


def pax_sparse(
    name: bytes, size: int, parts: Sequence[tuple[int, bytes]], version: str = "1.0"
) -> bytes:
    """A sparse file in one of PAX's formats."""
    body = b"".join(data for _, data in parts)
    numbers = [n for offset, data in parts for n in (offset, len(data))]
    if version == "1.0":
        lines = b"".join(b"%d\n" % n for n in [len(parts), *numbers])
        body = padded(lines) + body
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
        records += [(b"GNU.sparse.name", name), (b"GNU.sparse.realsize", b"%d" % size)]
    elif version == "0.1":
        records = [
            (b"GNU.sparse.size", b"%d" % size),
            (b"GNU.sparse.numblocks", b"%d" % len(parts)),
            (b"GNU.sparse.map", b",".join(b"%d" % n for n in numbers)),
            (b"GNU.sparse.name", name),
        ]
    else:
        records = [
            (b"GNU.sparse.size", b"%d" % size),
            (b"GNU.sparse.numblocks", b"%d" % len(parts)),
        ]
        for offset, data in parts:
            records.append((b"GNU.sparse.offset", b"%d" % offset))
            records.append((b"GNU.sparse.numbytes", b"%d" % len(data)))
    return pax(records) + header(name, b"0", len(body)) + padded(body)


# --- one archive for each thing that can be in one ---------------------------------------------


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


# --- random archives ----------------------------------------------------------------------------


class Dice:
    """Numbers that are the same for a seed, with every version of Python."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._count = 0

    def below(self, limit: int) -> int:
        self._count += 1
        text = f"{self._seed}/{self._count}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % limit

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]


_NAMES = (
    b"a",
    b"bb",
    b"c c",
    b"d" * 80,
    b"\xc3\xa9",
    b".wh.a",
    b".wh.new",
    b".wh..wh..opq",
    b"e" * 255,
)
_XATTRS = (b"user.a", b"user.bb", b"trusted.t", b"security.s", b"system.posix_acl_access", b"odd")
_SIZES = (0, 0, 1, 59, 60, 61, 100, 136, 137, 512, 4095, 4096, 4097, 20000, 100_001)


class _RandomArchive:
    """Entries that are more often than not possible after those before."""

    def __init__(self, seed: int) -> None:
        self._dice = Dice(seed)
        self._directories = [b""]
        self._files: list[bytes] = []
        self._counter = 0

    def build(self) -> bytes:
        return b"".join(self._entry() for _ in range(1 + self._dice.below(40))) + end()

    def _name(self) -> bytes:
        dice = self._dice
        name = dice.one_of(_NAMES)
        if dice.below(5):
            self._counter += 1
            name = (b"%d" % self._counter + name)[:255]
        parent = dice.one_of(self._directories)
        if not dice.below(8):
            parent += b"implied%d/" % dice.below(4)
        return dice.one_of((b"", b"", b"./", b"/")) + parent + name

    def _records(self) -> dict[bytes, bytes]:
        dice = self._dice
        records: dict[bytes, bytes] = {}
        while not dice.below(3):
            name = dice.one_of(_XATTRS) + b"x" * dice.below(3)
            size = dice.one_of((0, 1, 4, 20, 50, 70, 200, 1000))
            records[b"SCHILY.xattr." + name] = pattern(size, dice.below(100))
        if not dice.below(3):
            seconds = dice.one_of((-(1 << 33), -1, 0, 1, 1_700_000_000, 1 << 34, 1 << 35))
            records[dice.one_of((b"atime", b"mtime", b"ctime"))] = b"%d.%d" % (
                seconds,
                dice.below(10**9),
            )
        return records

    def _entry(self) -> bytes:
        dice = self._dice
        name = self._name()
        records = self._records()
        front = b""
        if len(name) > 100:
            if dice.below(2):
                records[b"path"] = name
            else:
                front = long_name(name)
        if records:
            front += pax(records)
        fields: dict[str, object] = {
            "mode": dice.below(0o10000),
            "uid": dice.one_of((0, 1000, 65535, 65536, 1 << 31)),
            "gid": dice.one_of((0, 100, 1 << 20)),
            "mtime": dice.one_of((0, 1, 1_500_000_000, -5, 1 << 33)),
            "magic": dice.one_of((USTAR, USTAR, GNU)),
        }
        return front + self._body(name, fields)

    def _body(self, name: bytes, fields: dict[str, object]) -> bytes:
        dice = self._dice
        choice = dice.below(10)
        if choice < 4:
            self._files.append(name)
            return regular(name, pattern(dice.one_of(_SIZES), dice.below(9)), **fields)
        if choice < 6:
            self._directories.append(name + b"/")
            return directory(name, **fields)
        if choice == 6 and self._files:
            target = dice.one_of(self._files)
            front = long_name(target, b"K") if len(target) > 100 else b""
            return front + hard_link(name, target)
        if choice == 7:
            size = dice.one_of((1, 59, 60, 99))
            self._files.append(name)
            return header(name, b"2", target=b"t" * size, **fields)  # type: ignore[arg-type]
        if choice == 8:
            kind = dice.one_of((b"3", b"4", b"6"))
            device = (dice.below(300), dice.below(300))
            return header(name, kind, device=device, **fields)  # type: ignore[arg-type]
        # A name that is longer than its field comes from the extended header all the same.
        parts = [(dice.below(3) * 5000, pattern(dice.below(3000)))]
        return old_sparse(name, 20_000 + dice.below(5000), parts)


def random_archive(seed: int) -> bytes:
    """An archive of random entries; not every one can be converted."""
    return _RandomArchive(seed).build()
