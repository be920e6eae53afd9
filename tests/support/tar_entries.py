"""Entries of tar archives, byte by byte: ordinary ones and odd ones.

The bytes depend on nothing but the arguments, for digests of what becomes of them stand in tests.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
