"""What an ELF file asks of the dynamic loader (64 bit, little endian)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAGIC = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The dynamic section of a program or library."""

    interpreter: str
    """Path of the loader (PT_INTERP), empty in a library or static program."""
    needed: tuple[str, ...]
    soname: str
    search: tuple[str, ...]
    """Directories of DT_RPATH or DT_RUNPATH."""


def is_elf(data: bytes) -> bool:
    """Tell whether bytes are a 64 bit ELF file."""
    return data.startswith(_MAGIC)


def dynamic(data: bytes) -> Dynamic:
    """Read the dynamic section; all fields are empty in a static program."""
    offset, size, count = _header(data)
    segments = [struct.unpack_from("<IIQQQQQQ", data, offset + size * i) for i in range(count)]
    interpreter = ""
    entries: list[tuple[int, int]] = []
    for kind, _, start, _, _, length, _, _ in segments:
        if kind == _PT_INTERP:
            interpreter = _text(data, start)
        elif kind == _PT_DYNAMIC:
            entries = list(struct.iter_unpack("<QQ", data[start : start + length // 16 * 16]))
    strings = _file_offset(segments, dict(entries)[_DT_STRTAB]) if entries else 0
    texts = [(tag, _text(data, strings + value)) for tag, value in entries if tag in _TEXT_TAGS]
    return Dynamic(
        interpreter,
        tuple(text for tag, text in texts if tag == _DT_NEEDED),
        next((text for tag, text in texts if tag == _DT_SONAME), ""),
        tuple(
            folder
            for tag, text in texts
            if tag in (_DT_RPATH, _DT_RUNPATH)
            for folder in text.split(":")
        ),
    )


_TEXT_TAGS = (_DT_NEEDED, _DT_SONAME, _DT_RPATH, _DT_RUNPATH)


def _header(data: bytes) -> tuple[int, int, int]:
    if not is_elf(data):
        raise BuildError("not a 64 bit little endian ELF file")
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return offset, size, count


def _file_offset(segments: list[tuple[int, ...]], address: int) -> int:
    for kind, _, start, virtual, _, length, _, _ in segments:
        if kind == _PT_LOAD and virtual <= address < virtual + length:
            return start + address - virtual
    raise BuildError("damaged ELF file: the string table is in no segment")


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


class Libraries:
    """Shared libraries below unpacked packages, found by the name programs ask for."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._files: dict[str, tuple[Path, str]] = {}
        for root in roots:
            for folder in ("lib", "usr/lib"):
                for path in sorted((root / folder).glob("*-linux-gnu/*.so*")):
                    place = path.relative_to(root).as_posix()
                    self._files.setdefault(path.name, (path, place))

    def closure(self, programs: Iterable[Path]) -> dict[str, tuple[Path, str]]:
        """Return every library programs need, by name: the file, and its place in the package.

        Raises:
            BuildError: no package at hand has a library that is needed.
        """
        found: dict[str, tuple[Path, str]] = {}
        pending = [(path, path.name) for path in programs]
        while pending:
            path, asker = pending.pop()
            for name in dynamic(path.read_bytes()).needed:
                if name in found:
                    continue
                if name not in self._files:
                    raise BuildError(f"{asker} needs {name}, which no package listed contains")
                found[name] = self._files[name]
                pending.append((self._files[name][0], name))
        return found
