"""Cutting the byte stream from the host into frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.frame import HEADER_SIZE, MAX_TO_GUEST, Header, decode_header

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A body from this size on is handed over without a copy.
_LARGE = 64 * 1024


class FrameDecoder:
    """Assembles frames from pieces of any size.

    What a header claims is not allocated: the buffer grows by the bytes that arrive.

    Args:
        limit: Longest frame, in bytes, header included.
    """

    __slots__ = ("_buffer", "_header", "_limit")

    def __init__(self, limit: int = MAX_TO_GUEST) -> None:
        self._buffer = bytearray()
        self._header: Header | None = None
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes | bytearray]]:
        """Add bytes and yield the header and the body of each frame that is complete.

        Raises:
            FramingError: The stream is no sequence of frames; what came before was yielded.
        """
        self._buffer += data
        while True:
            if self._header is None:
                if len(self._buffer) < HEADER_SIZE:
                    return
                self._header = decode_header(self._buffer, limit=self._limit)
            if len(self._buffer) < self._header.size:
                return
            header, self._header = self._header, None
            yield header, self._take_body(header.size)

    def pending(self) -> str:
        """Return what an unfinished frame lacks, for a message; empty between two frames."""
        if self._header is not None:
            return f"{len(self._buffer)} of {self._header.size} bytes of {self._header!r}"
        if self._buffer:
            return f"{len(self._buffer)} of {HEADER_SIZE} bytes of a header"
        return ""

    def _take_body(self, size: int) -> bytes | bytearray:
        if size < _LARGE:
            small = bytes(memoryview(self._buffer)[HEADER_SIZE:size])
            del self._buffer[:size]
            return small
        body = self._buffer
        self._buffer = body[size:]
        del body[size:]
        del body[:HEADER_SIZE]  # moves the start, not the bytes
        return body
