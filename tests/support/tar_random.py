"""Tar archives of random entries: any number of them.

The bytes depend on nothing but the arguments, for digests of what becomes of them stand in tests.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

from tests.support.tar_entries import (
    GNU,
    USTAR,
    directory,
    end,
    hard_link,
    header,
    long_name,
    old_sparse,
    pattern,
    pax,
    regular,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


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
