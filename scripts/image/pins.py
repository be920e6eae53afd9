"""The lock file: which version of each package the image is made of, with its checksum.

One package a line, fields separated by spaces: where it is from (`debian` or `pypi`), architecture
(`any` when it has none), name, version, SHA256 of the file, and the name of the file on PyPI.
`make lock` writes it anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOCK_FILE = Path(__file__).parent / "packages.lock"

_HEAD = """\
# The packages that the image is made of: where from, architecture, name, version, SHA256, file.
# `make lock` takes the versions of today; a build takes these.
"""
_FIELDS = {"debian": 5, "pypi": 6}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """A package, and the one version of it that a build takes."""

    source: str
    """Where it comes from: `debian` or `pypi`."""
    architecture: str
    name: str
    version: str
    sha256: str
    file: str = ""
    """Name of the file on PyPI."""


class Pins:
    """The lock file's content.

    Parameters:
        pins: what it says.
        path: the file, for messages.
    """

    def __init__(self, pins: Iterable[Pin], path: Path = LOCK_FILE) -> None:
        self.path = path
        self._pins = {(each.source, each.architecture, each.name): each for each in pins}

    def __iter__(self) -> Iterator[Pin]:
        """Yield all of them, sorted."""
        return iter(sorted(self._pins.values()))

    def debian(self, architecture: str, name: str) -> Pin | None:
        """Return the pin of a Debian package, if it has one."""
        return self._pins.get(("debian", architecture, name))

    def pypi(self, architecture: str, name: str) -> Pin | None:
        """Return the pin of a distribution on PyPI, if it has one."""
        return self._pins.get(("pypi", architecture, name))

    def write(self) -> None:
        """Write the lock file."""
        lines = [
            " ".join(field for field in _fields(pin) if field)
            for pin in sorted(self._pins.values())
        ]
        self.path.write_text(_HEAD + "".join(f"{line}\n" for line in lines))


def _fields(pin: Pin) -> tuple[str, ...]:
    return (pin.source, pin.architecture, pin.name, pin.version, pin.sha256, pin.file)


def read(path: Path = LOCK_FILE) -> Pins:
    """Read a lock file.

    Raises:
        BuildError: it is missing, or a line has not the fields it should.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}; 'make lock' writes it") from error
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        if len(fields) != _FIELDS.get(fields[0]) or not _SHA256.fullmatch(fields[4]):
            raise BuildError(f"{path}:{number}: is no line of a lock file; see its head")
        pins.append(Pin(*fields))
    return Pins(pins, path)


def sha256_of(path: Path) -> str:
    """Return the SHA256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, pin: Pin) -> None:
    """Compare a file with its pin.

    Raises:
        BuildError: the checksums differ.
    """
    found = sha256_of(path)
    if found != pin.sha256:
        raise BuildError(
            f"{path}: SHA256 is {found}, but the lock file has {pin.sha256} for {pin.name} "
            f"{pin.version}; remove the file if it is damaged"
        )
