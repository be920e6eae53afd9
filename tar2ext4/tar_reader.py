"""Reads a tar archive as a stream: entry by entry, the data of each in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tar2ext4 import sparse, tar_header
from tar2ext4.errors import ArchiveError, printable
from tar2ext4.tar_header import Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

_PIECE: Final = 1 << 20
#: Data of up to so many bytes is one piece.
_SMALL: Final = 64 << 10
#: An extended header may not be larger.
_MAX_EXTENDED: Final = 1 << 20
_ZERO_BLOCK: Final = bytes(tar_header.SIZE)
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


class TarReader:
    """Entries of an archive, in order.

    Iterate to get the headers; `content` gives the data of the latest, whole or in part or not at
    all. Global extended headers are entries as well, for that is what the reference takes them for.
    """

    def __init__(self, source: BinaryIO, name: str, *, as_unpacked: bool = False) -> None:
        """Read from a file.

        Args:
            source: At the archive's first byte; needs not be seekable.
            name: For messages.
            as_unpacked: Let global extended headers have their say on entries instead.
        """
        self._globals: dict[bytes, bytes] | None = {} if as_unpacked else None
        self._source = source
        #: At most one system call each.
        self._read_some: Callable[[int], bytes] = getattr(source, "read1", source.read)
        self._name = name
        self._offset = 0
        self._left = 0
        self._padding = 0
        self._fragments: sparse.Fragments | None = None
        self._size = 0

    def __iter__(self) -> Iterator[Header]:
        """The headers.

        Raises:
            ArchiveError: the archive is damaged or ends too early.
        """
        while True:
            start = self._offset + self._left + self._padding
            try:
                header = self._next()
            except ArchiveError as error:
                raise ArchiveError(f"{self._name}: entry at byte {start}: {error}") from None
            except OSError as error:
                raise ArchiveError(
                    f"{self._name}: cannot read it at byte {self._offset}: "
                    f"{error.strerror or error}"
                ) from error
            if header is None:
                return
            self._size = header.size
            yield header

    def content(self, header: Header) -> Iterable[bytes | int]:
        """The data of the latest entry in pieces: bytes, or a number of zeros.

        Raises:
            ArchiveError: the archive ends before the data does; also while iterating.
        """
        if self._fragments is None and self._left <= _SMALL:
            # Nearly every file is one of these.
            try:
                return (self._data(self._left),)
            except (ArchiveError, OSError) as error:
                raise self._unreadable(header, error) from error
        return self._content(header)

    def _content(self, header: Header) -> Iterator[bytes | int]:
        try:
            if self._fragments is None:
                yield from self._pieces(self._left)
                return
            at = 0
            for offset, length in self._fragments:
                if offset > at:
                    yield offset - at
                yield from self._pieces(length)
                at = offset + length
            if self._size > at:
                yield self._size - at
            if self._left:
                raise ArchiveError(f"{self._left} bytes more than its map says")
        except (ArchiveError, OSError) as error:
            raise self._unreadable(header, error) from error

    def _unreadable(self, header: Header, error: ArchiveError | OSError) -> ArchiveError:
        text = (
            f"cannot read it: {error.strerror or error}"
            if isinstance(error, OSError)
            else str(error)
        )
        return ArchiveError(f"{self._name}: {printable(header.name)}: {text}")

    # --- bytes ------------------------------------------------------------------------------

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes: fewer only at the end of the archive."""
        data = self._source.read(size)
        if len(data) < size:
            parts = [data]
            missing = size - len(data)
            while data and missing:
                data = self._source.read(missing)
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        self._offset += len(data)
        return data

    def _data(self, size: int) -> bytes:
        """Bytes of the current entry."""
        if size > self._left:
            raise ArchiveError("has less data than it needs")
        data = self._read(size)
        self._left -= len(data)
        if len(data) < size:
            raise self._ends_early()
        return data

    def _pieces(self, size: int) -> Iterator[bytes]:
        """Bytes of the current entry, in pieces of any size.

        Each is one system call, so that a signal is noticed while a pipe has nothing to read.
        """
        if size > self._left:
            raise ArchiveError("has less data than it needs")
        while size > 0:
            piece = self._read_some(min(size, _PIECE))
            if not piece:
                raise self._ends_early()
            self._offset += len(piece)
            self._left -= len(piece)
            size -= len(piece)
            yield piece

    def _ends_early(self) -> ArchiveError:
        return ArchiveError(f"the archive ends {self._left} bytes before its data does")

    def _block(self) -> bytes:
        block = self._read(tar_header.SIZE)
        if len(block) < tar_header.SIZE:
            raise ArchiveError("the archive ends within a header")
        return block

    # --- headers ----------------------------------------------------------------------------

    def _next(self) -> Header | None:
        records: dict[bytes, bytes] = {}
        long_name = long_target = b""
        while True:
            read = self._read_header()
            if read is None:
                return None
            header, block = read
            kind = header.kind
            if kind == tar_header.PAX_NEXT:
                records = tar_header.parse_pax(self._extended())
            elif kind == tar_header.PAX_GLOBAL:
                if self._globals is None:
                    return self._global(header)
                self._globals |= tar_header.parse_pax(self._extended())
            elif kind == tar_header.GNU_LONG_NAME:
                long_name = tar_header.text(self._extended())
            elif kind == tar_header.GNU_LONG_LINK:
                long_target = tar_header.text(self._extended())
            else:
                if self._globals:
                    records = self._globals | records
                tar_header.apply_pax(header, records)
                header.name = long_name or header.name
                header.target = long_target or header.target
                if kind == tar_header.REGULAR_OLD:
                    is_directory = header.name.endswith(b"/")
                    header.kind = tar_header.DIRECTORY if is_directory else tar_header.REGULAR
                self._expect(header)
                self._read_map(header, block)
                return header

    def _read_header(self) -> tuple[Header, bytes] | None:
        """The next header, and its block; None at the end."""
        if self._left:
            for _ in self._pieces(self._left):
                pass
        padding, self._padding = self._padding, 0
        self._fragments = None
        start = self._offset
        block = self._read(padding + tar_header.SIZE)[padding:]
        if not block:
            return None
        if len(block) < tar_header.SIZE:
            raise ArchiveError("the archive ends within a header")
        if block == _ZERO_BLOCK:
            following = self._read(tar_header.SIZE)
            if following in (b"", _ZERO_BLOCK):
                return None
            raise ArchiveError("no tar header behind a block of zeros")
        try:
            header = tar_header.parse(block)
        except ArchiveError as error:
            raise ArchiveError(f"{error}{_advice(block) if start == 0 else ''}") from None
        self._expect(header)
        return header, block

    def _expect(self, header: Header) -> None:
        self._left = header.data_size
        self._padding = -self._left % tar_header.SIZE

    def _extended(self) -> bytes:
        if self._left > _MAX_EXTENDED:
            raise ArchiveError(f"an extended header of {self._left} bytes")
        return self._data(self._left)

    def _global(self, header: Header) -> Header:
        records = tar_header.parse_pax(self._extended())
        found = Header(header.name, header.kind)
        tar_header.apply_pax(header, records)
        found.name, found.records = header.name, records
        return found

    def _read_map(self, header: Header, block: bytes) -> None:
        if header.kind == tar_header.GNU_SPARSE:
            fragments: sparse.Fragments | None = sparse.read_old_map(header, block, self._block)
        else:
            fragments = sparse.read_pax_map(header, lambda: self._data(tar_header.SIZE))
        if fragments is not None:
            sparse.check(header, fragments)
        self._fragments = fragments


def _advice(block: bytes) -> str:
    for magic, kind in _COMPRESSED:
        if block.startswith(magic):
            return f"; it is compressed with {kind}, decompress it first"
    return ""
