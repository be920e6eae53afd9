"""Open an archive of unknown kind, and write compressed ones."""

from __future__ import annotations

import gzip
import shutil
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from scripts.image import cpio, tarball
from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.image.tree import Tree

_GZIP = b"\x1f\x8b"
_OTHER_COMPRESSIONS = {
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}
_COMPRESSION_LEVEL = 9


def read(path: Path, work: Path) -> Tree:
    """Read a root file system archive: tar or cpio, gzipped or not, told apart by content.

    Parameters:
        path: the archive.
        work: directory for the unpacked copy of a gzipped archive; the tree refers to it.

    Raises:
        BuildError: the file is missing, no such archive, truncated, damaged or has members that
            lead out of it.
    """
    try:
        return _read(path, work)
    except BuildError as error:
        raise BuildError(f"{path}: {error}") from error
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror or error}") from error


def _read(path: Path, work: Path) -> Tree:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(_GZIP):
        path = _gunzip(path, work)
        with path.open("rb") as file:
            head = file.read(512)
    for magic, name in _OTHER_COMPRESSIONS.items():
        if head.startswith(magic):
            raise BuildError(f"is compressed with {name}; unpack it, or use gzip")
    if head.startswith(cpio.MAGICS):
        return cpio.read(path)
    if tarball.looks_like_tar(head):
        return tarball.read(path)
    raise BuildError("is neither a tar nor a cpio archive, gzipped or not")


def _gunzip(path: Path, work: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    target = work / "base.unpacked"
    try:
        with gzip.open(path) as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BuildError(f"truncated or damaged gzip file ({error})") from error
    return target


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as out:
            yield out
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def gzipped(path: Path) -> Iterator[BinaryIO]:
    """Like `replacing`, compressed, with neither name nor time in the header."""
    with (
        replacing(path) as out,
        gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, out, mtime=0) as packed,
    ):
        yield packed  # type: ignore[misc]  # GzipFile writes like any binary file
