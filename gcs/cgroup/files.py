"""Reading and writing the small files of a control group.

A file that does not exist reads as nothing: which ones there are depends on the kernel and on the
controllers in use.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from gcs.protocol.errors import GcsError

#: What ``max`` reads as, and the largest number that fits into the metrics (spec 1.8).
MAX: Final = 2**64 - 1

# ENODEV: the group was removed after the file was opened.  EOPNOTSUPP: processes of a threaded
# group are listed further up, and nowhere else.
_NOTHING: Final = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP))
_CHUNK: Final = 64 * 1024


class CgroupGoneError(GcsError):
    """The control group does not exist (any more)."""


def read_text(path: str) -> str:
    """Return the content of a file, "" when there is none.

    Raises:
        GcsError: It can't be read for another reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = b""
            while chunk := os.read(descriptor, _CHUNK):
                content += chunk
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _NOTHING:
            return ""
        raise GcsError(f"cannot read {path}: {error.strerror}") from error
    return content.decode("ascii", "replace")


def parse_number(text: str) -> int:
    """Read a number: ``max`` is 2^64-1, anything else that is none is 0."""
    text = text.strip()
    if text == "max":
        return MAX
    return min(int(text), MAX) if text.isdecimal() else 0


def read_number(path: str) -> int:
    """Return the number in a file, 0 when there is none; see :func:`parse_number`."""
    return parse_number(read_text(path))


def parse_table(text: str) -> dict[str, int]:
    """Read lines of a key and a number; lines of another form are skipped."""
    table = {}
    for line in text.splitlines():
        pair = line.split()
        if len(pair) == 2 and (pair[1].isdecimal() or pair[1] == "max"):
            table[pair[0]] = parse_number(pair[1])
    return table


def read_table(path: str) -> dict[str, int]:
    """Return the table in a file, empty when there is none; see :func:`parse_table`."""
    return parse_table(read_text(path))


def write_text(path: str, value: str) -> None:
    """Write a setting.

    Raises:
        OSError: With the path and the value in it.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"writing {value!r}: {error.strerror}", path) from None


def hugepage_sizes(directory: str = "/sys/kernel/mm/hugepages") -> list[str]:
    """Return the sizes of huge pages as names of files have them: ``2MB``, ``1GB``."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:  # the kernel has none
        return []
    sizes = []
    for name in names:
        kibibytes = name.removeprefix("hugepages-").removesuffix("kB")
        if kibibytes.isdecimal():
            sizes.append(int(kibibytes))
    return [_size_name(size) for size in sorted(sizes)]


def _size_name(kibibytes: int) -> str:
    for unit, factor in (("GB", 1024 * 1024), ("MB", 1024)):
        if kibibytes >= factor:
            return f"{kibibytes // factor}{unit}"
    return f"{kibibytes}KB"
