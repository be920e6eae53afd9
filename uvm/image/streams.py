"""Compressed streams, and streams whose digest is taken while they are read."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, cast

from uvm.errors import UvmError

#: Called between steps of long work; what it raises ends the work.
Check = Callable[[], None]

_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
)
_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_CHUNK: Final = 1 << 20


def split_digest(digest: str, label: str) -> tuple[str, str]:
    """Return algorithm and hexadecimal digits of a digest.

    Raises:
        UvmError: It has another form; it may not become part of a path then.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise UvmError(f"{label}: {digest[:100]!r} is no digest of SHA-256 or SHA-512")
    algorithm, digits = match[1] or match[3], match[2] or match[4]
    return algorithm, digits


def compression(path: Path) -> str | None:
    """Return how a file is compressed; ``None``: not at all."""
    with path.open("rb") as file:
        return _kind(file.read(8))


@contextlib.contextmanager
def decompressed(raw: "IO[bytes] | HashingReader") -> Iterator[IO[bytes]]:
    """Decompress a stream, by what it begins with; one that is not compressed stays as it is."""
    buffered = io.BufferedReader(cast("io.RawIOBase", raw), _CHUNK)
    try:
        with _decompressor(buffered) as stream:
            yield stream
    finally:
        # The stream below is the caller's to close.
        buffered.detach()


def _decompressor(
    buffered: "io.BufferedReader[Any]",
) -> contextlib.AbstractContextManager[IO[bytes]]:
    kind = _kind(buffered.peek(8)[:8])
    if kind == "gzip":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=buffered))
    if kind == "zstd":
        import zstandard

        decompressor = zstandard.ZstdDecompressor()
        reader = decompressor.stream_reader(buffered, read_across_frames=True, closefd=False)
        return cast("IO[bytes]", reader)
    if kind == "xz":
        return cast("IO[bytes]", lzma.LZMAFile(buffered))
    if kind == "bzip2":
        return cast("IO[bytes]", bz2.BZ2File(buffered))
    return contextlib.nullcontext(cast("IO[bytes]", buffered))


@contextlib.contextmanager
def damages_named(what: str) -> Iterator[None]:
    """Make what decompressors raise about damaged data an error that names it.

    Raises:
        UvmError: It is damaged.
    """
    import zstandard

    damages = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
    try:
        yield
    except damages as error:
        raise UvmError(f"{what} is damaged: {error}") from error


class HashingReader(io.RawIOBase):
    """A stream of which the digest is taken.

    Args:
        stream: The stream.
        digest: What it should be; ``None``: unknown.
        what: What to call it in messages.
        check: Called with every piece; what it raises ends the work.
    """

    def __init__(self, stream: IO[bytes], digest: str | None, what: str, check: Check) -> None:
        super().__init__()
        self._stream = stream
        self._digest = digest
        self._what = what
        self._check = check
        algorithm = split_digest(digest, what)[0] if digest else "sha256"
        self._hash = hashlib.new(algorithm)
        self.count = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read into a buffer, as :class:`io.RawIOBase` wants it."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        self._check()
        self._hash.update(data)
        self.count += len(data)
        view[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Read the rest and compare the digest.

        Raises:
            UvmError: It is another one.
        """
        while self.read(_CHUNK):
            pass
        if self._digest is None:
            return
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise UvmError(f"{self._what} has the digest {found} instead of {self._digest}")


def _kind(head: bytes) -> str | None:
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    return None
