"""Which parts of a sparse file an archive holds: GNU's old format, and PAX 0.0, 0.1 and 1.0.

See https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tar2ext4.errors import ArchiveError
from tar2ext4.tar_header import HEADER_ONLY, SIZE, Header, integer, is_gnu, number, pairs

if TYPE_CHECKING:
    from collections.abc import Callable

#: Offsets and lengths in bytes, ascending.
Fragments = list[tuple[int, int]]

_REAL_SIZE: Final = slice(483, 495)
_OLD_ENTRIES: Final = (386, 4)  # where they start in a header, and how many there are
_OLD_EXTENSION_ENTRIES: Final = (0, 21)
_FIELD: Final = 12


def read_old_map(header: Header, block: bytes, read_block: Callable[[], bytes]) -> Fragments:
    """The map of GNU's old format; sets the size of the file.

    Args:
        block: The header as it is in the archive.
        read_block: Gives the blocks behind it, which hold the rest of a longer map.

    Raises:
        ArchiveError: no such map.
    """
    if not is_gnu(block):
        raise ArchiveError("a sparse file in a format that is not known")
    header.size = number(block[_REAL_SIZE])
    fragments: Fragments = []
    start, count = _OLD_ENTRIES
    while True:
        end = start + count * 2 * _FIELD
        for at in range(start, end, 2 * _FIELD):
            if block[at] == 0:
                break
            offset = number(block[at : at + _FIELD])
            fragments.append((offset, number(block[at + _FIELD : at + 2 * _FIELD])))
        if block[end] == 0:
            return fragments
        block = read_block()
        start, count = _OLD_EXTENSION_ENTRIES


def read_pax_map(header: Header, read_data: Callable[[], bytes]) -> Fragments | None:
    """The map of a PAX format; sets name and size of the file. None when it is not sparse.

    Args:
        read_data: Gives the next block of the file's data, which begins with the map in format 1.0.

    Raises:
        ArchiveError: a malformed map.
    """
    records = header.records
    version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
    in_data = version == (b"1", b"0")
    in_records = version in ((b"0", b"0"), (b"0", b"1")) or (
        version == (b"", b"") and bool(records.get(b"GNU.sparse.map"))
    )
    if not in_data and not in_records:
        return None
    if name := records.get(b"GNU.sparse.name"):
        header.name = name
    if size := records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize"):
        header.size = integer(size)
    if in_data:
        return _map_in_data(read_data)
    count = integer(records.get(b"GNU.sparse.numblocks", b""))
    numbers = records.get(b"GNU.sparse.map", b"")
    fields = numbers.split(b",") if numbers else []
    if count < 0 or len(fields) != 2 * count:
        raise ArchiveError("the map of a sparse file has not as many parts as it says")
    return pairs(fields)


def _map_in_data(read_data: Callable[[], bytes]) -> Fragments:
    data = read_data()
    lines: list[bytes] = []
    while True:
        *more, data = data.split(b"\n")
        lines += more
        if lines:
            count = integer(lines[0])
            if count < 0:
                raise ArchiveError("the map of a sparse file has a negative length")
            if len(lines) > 2 * count:
                return pairs(lines[1 : 2 * count + 1])
        data += read_data()


def check(header: Header, fragments: Fragments) -> None:
    """See that a map fits its file.

    Raises:
        ArchiveError: it does not.
    """
    end = 0
    for offset, length in fragments:
        if offset < end or length < 0:
            raise ArchiveError("the parts of a sparse file overlap or are out of order")
        end = offset + length
    if header.kind in HEADER_ONLY or header.size < end:
        raise ArchiveError("the map of a sparse file goes beyond its end")


assert _OLD_EXTENSION_ENTRIES[1] * 2 * _FIELD < SIZE
