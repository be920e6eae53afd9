"""One 512-byte header of a tar archive: v7, ustar, star and GNU.

What is read how, of fields that writers fill in differently, is as in the reference; the layouts
are those of https://www.gnu.org/software/tar/manual/html_node/Standard.html.
"""

from __future__ import annotations

import functools
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tar2ext4.errors import ArchiveError
from tar2ext4.timestamps import Time, make_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SIZE: Final = 512

REGULAR_OLD: Final = b"\0"
REGULAR: Final = b"0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
PAX_NEXT: Final = b"x"
PAX_GLOBAL: Final = b"g"
GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
GNU_SPARSE: Final = b"S"
#: No data follows these, whatever their size.
HEADER_ONLY: Final = frozenset(
    {HARD_LINK, SYMLINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO}
)

_FIELDS: Final = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s64x8s8s167s")
_STAR_PREFIX: Final = slice(345, 476)
_USTAR_PREFIX: Final = slice(345, 500)
_FIRST_TIME: Final = slice(345, 357)
_SECOND_TIME: Final = slice(357, 369)
_STAR_FIRST_TIME: Final = slice(476, 488)
_STAR_SECOND_TIME: Final = slice(488, 500)
_CHECKSUM: Final = slice(148, 156)
_INTEGER: Final = re.compile(rb"[+-]?[0-9]+")
_INT64: Final = 1 << 63


@dataclass(slots=True)
class Header:
    """What a header says, with what extended headers before it changed."""

    name: bytes
    kind: bytes
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: Time | None = None
    atime: Time | None = None
    ctime: Time | None = None
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    records: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def data_size(self) -> int:
        """Bytes of data behind the header, before padding.

        Raises:
            ArchiveError: a negative size.
        """
        if self.kind in HEADER_ONLY:
            return 0
        if self.size < 0:
            raise ArchiveError(f"negative size {self.size}")
        return self.size


def text(raw: bytes) -> bytes:
    """A field up to its first zero byte."""
    end = raw.find(b"\0")
    return raw if end < 0 else raw[:end]


@functools.lru_cache(maxsize=4096)
def number(raw: bytes) -> int:
    """A numeric field: octal, or binary with the highest bit set.

    Raises:
        ArchiveError: neither of the two.
    """
    if raw[0] & 0x80:
        # A signed number, big endian, of which the first bit only marks the form.
        value = int.from_bytes(raw, "big") & ((1 << 8 * len(raw) - 1) - 1)
        if raw[0] & 0x40:
            value -= 1 << 8 * len(raw) - 1
        if not -_INT64 <= value < _INT64:
            raise ArchiveError("a number is out of range")
        return value
    digits = raw.strip(b" \0")
    if not digits.isdigit():
        if not digits:
            return 0
        digits = text(digits)
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise ArchiveError(f"{digits!r} is no octal number")


def integer(digits: bytes) -> int:
    """A decimal number of 64 bits.

    Raises:
        ArchiveError: something else.
    """
    if not _INTEGER.fullmatch(digits) or not -_INT64 <= (value := int(digits)) < _INT64:
        raise ArchiveError(f"{digits!r} is no number")
    return value


def _sum(block: bytes) -> int:
    """The sum of the bytes of a header, by a checksum that is computed much faster.

    The lower half of an Adler-32 is that sum plus one, modulo a number which 256 bytes don't reach.
    """
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _checksum_is_right(block: bytes, stored: bytes) -> bool:
    try:
        expected = number(stored) if not stored[0] & 0x80 else -1
    except ArchiveError:
        return False
    unsigned = _sum(block) - sum(stored) + 8 * 0x20
    if expected == unsigned:
        return True
    # Some old writers added up signed bytes.
    others = block[:148] + block[156:]
    return expected == unsigned - 256 * sum(byte >= 0x80 for byte in others)


def is_gnu(block: bytes) -> bool:
    """Whether a header has the layout of GNU tar."""
    return block[257:265] == b"ustar  \0"


def parse(block: bytes) -> Header:
    """Read a header.

    Raises:
        ArchiveError: wrong checksum, or fields that cannot be read.
    """
    (name, mode, uid, gid, size, mtime, checksum, kind, target, magic, _, major, minor, _) = (
        _FIELDS.unpack(block)
    )
    if not _checksum_is_right(block, checksum):
        raise ArchiveError("no tar header: wrong checksum")
    header = Header(
        text(name),
        kind,
        number(size),
        number(mode),
        number(uid),
        number(gid),
        make_time(number(mtime)),
        target=text(target),
    )
    if magic == b"ustar\0":
        header.device = (number(major), number(minor))
        if block[508:512] == b"tar\0":
            prefix = text(block[_STAR_PREFIX])
            header.atime = make_time(number(block[_STAR_FIRST_TIME]))
            header.ctime = make_time(number(block[_STAR_SECOND_TIME]))
        else:
            prefix = text(block[_USTAR_PREFIX])
    elif is_gnu(block):
        header.device = (number(major), number(minor))
        prefix = _gnu_times(block, header)
    else:
        prefix = b""
    if prefix:
        header.name = prefix + b"/" + header.name
    return header


def _gnu_times(block: bytes, header: Header) -> bytes:
    """Set access and change time; returns the prefix of the name, which GNU does not have.

    Some writers put one there all the same, and then it cannot be read as times.
    """
    try:
        times = [
            make_time(number(raw)) if raw[0] else None
            for raw in (block[_FIRST_TIME], block[_SECOND_TIME])
        ]
    except ArchiveError:
        prefix = text(block[_USTAR_PREFIX])
        return prefix if prefix.isascii() else b""
    header.atime, header.ctime = times
    return b""


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records of an extended header; the parts of an old sparse map are joined to one.

    Raises:
        ArchiveError: malformed records.
    """
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        key, value, at = _record(data, at)
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(sparse) % 2] or b"," in value:
                raise ArchiveError("malformed map of a sparse file")
            sparse.append(value)
        else:
            records[key] = value
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


_SPARSE_PAIR: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_NAMES: Final = frozenset({b"path", b"linkpath", b"uname", b"gname"})


def _record(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Key and value of the record at an offset, and where the next one is."""
    space = data.find(b" ", at)
    if space < 0:
        raise ArchiveError("malformed extended header: a record without a length")
    length = integer(data[at:space])
    end = at + length
    if length < 5 or end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
        raise ArchiveError("malformed extended header: a record with a wrong length")
    key, separator, value = data[space + 1 : end - 1].partition(b"=")
    if not separator or not key or b"\0" in (value if key in _NAMES else key):
        raise ArchiveError("malformed extended header: a record without a key")
    return key, value, end


def apply_pax(header: Header, records: dict[bytes, bytes]) -> None:
    """Let the records of an extended header have their say.

    Raises:
        ArchiveError: a number or a time that cannot be read.
    """
    for key, value in records.items():
        # Without a value, what the header says stays.
        if value and key in _PAX_FIELDS:
            name, read = _PAX_FIELDS[key]
            setattr(header, name, read(value))
    header.records = records


def _pax_time(value: bytes) -> Time:
    whole, _, fraction = value.partition(b".")
    seconds = integer(whole)
    if not fraction:
        return make_time(seconds)
    if not fraction.isdigit():
        raise ArchiveError(f"{value!r} is no time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return make_time(seconds, -nanoseconds if whole.startswith(b"-") else nanoseconds)


_PAX_FIELDS: Final[dict[bytes, tuple[str, Callable[[bytes], object]]]] = {
    b"path": ("name", bytes),
    b"linkpath": ("target", bytes),
    b"uid": ("uid", integer),
    b"gid": ("gid", integer),
    b"size": ("size", integer),
    b"mtime": ("mtime", _pax_time),
    b"atime": ("atime", _pax_time),
    b"ctime": ("ctime", _pax_time),
}


def pairs(numbers: Iterable[bytes]) -> list[tuple[int, int]]:
    """Offsets and lengths from decimal numbers.

    Raises:
        ArchiveError: something that is no number.
    """
    values = [integer(digits) for digits in numbers]
    return list(zip(values[::2], values[1::2], strict=True))
