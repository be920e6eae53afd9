"""Volumes on the command line: ``-v HOSTDIR:/PATH[:ro]``."""

import os
import posixpath
from collections.abc import Sequence
from typing import Final

from uvm.errors import UvmError
from uvm.spec import Volume

_ACCESS: Final = {"ro": True, "rw": False}


def parse_volumes(texts: Sequence[str]) -> tuple[Volume, ...]:
    """Return the volumes of a command line.

    Raises:
        UvmError: One is not in the form, its directory is not there, or two are at one place.
    """
    volumes = tuple(parse_volume(text) for text in texts)
    targets = [volume.target for volume in volumes]
    for target in targets:
        if targets.count(target) > 1:
            raise UvmError(f"two volumes at {target}")
    return volumes


def parse_volume(text: str) -> Volume:
    """Return the volume that ``HOSTDIR:/PATH``, ``HOSTDIR:/PATH:ro`` or ``…:rw`` describes.

    The directory may be relative, and have colons in its name.

    Raises:
        UvmError: It is not in that form, or the directory is not there.
    """
    head, _, tail = text.rpartition(":")
    read_only = _ACCESS.get(tail)
    source, _, target = (text if read_only is None else head).rpartition(":")
    if not source or not target.startswith("/") or "\0" in text:
        raise UvmError(f"-v {text!r} is not in the form HOSTDIR:/PATH or HOSTDIR:/PATH:ro")
    # Two slashes at the beginning would stay.
    target = posixpath.normpath("/" + target.lstrip("/"))
    if target == "/":
        raise UvmError(f"-v {text!r}: a volume can't take the place of the root file system")
    return Volume(_directory(text, source), target, read_only or False)


def _directory(text: str, source: str) -> str:
    path = os.path.abspath(source)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UvmError(f"-v {text!r}: the path of the directory is not UTF-8") from None
    if not os.path.exists(path):
        raise UvmError(f"-v {text!r}: the directory {path} does not exist")
    if not os.path.isdir(path):
        raise UvmError(f"-v {text!r}: {path} is no directory")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UvmError(f"-v {text!r}: the directory {path} can't be read")
    return path
