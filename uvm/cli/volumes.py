"""Volumes on the command line: ``-v HOSTPATH:/PATH[:ro]``."""

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
        UvmError: One is not in the form, its source is not there, or two are at one place.
    """
    volumes = tuple(parse_volume(text) for text in texts)
    targets = [volume.target for volume in volumes]
    for target in targets:
        if targets.count(target) > 1:
            raise UvmError(f"two volumes at {target}")
    return volumes


def parse_volume(text: str) -> Volume:
    """Return the volume that ``HOSTPATH:/PATH``, ``HOSTPATH:/PATH:ro`` or ``…:rw`` describes.

    HOSTPATH is a directory or a file; it may be relative, and have colons in its name.

    Raises:
        UvmError: It is not in that form, or there is nothing to share.
    """
    head, _, tail = text.rpartition(":")
    read_only = _ACCESS.get(tail)
    source, _, target = (text if read_only is None else head).rpartition(":")
    if not source or not target.startswith("/") or "\0" in text:
        raise UvmError(f"-v {text!r} is not in the form HOSTPATH:/PATH or HOSTPATH:/PATH:ro")
    # Two slashes at the beginning would stay.
    target = posixpath.normpath("/" + target.lstrip("/"))
    if target == "/":
        raise UvmError(f"-v {text!r}: a volume can't take the place of the root file system")
    return Volume(_source(text, source), target, read_only or False)


def _source(text: str, source: str) -> str:
    path = os.path.abspath(source)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UvmError(f"-v {text!r}: the path is not UTF-8") from None
    if not os.path.exists(path):
        raise UvmError(f"-v {text!r}: {path} does not exist")
    if os.path.isfile(path):
        # What is shared is the file itself; a link would lead the container to a file of its own.
        path = os.path.realpath(path)
        access = os.R_OK
    elif os.path.isdir(path):
        access = os.R_OK | os.X_OK
    else:
        raise UvmError(f"-v {text!r}: {path} is neither a directory nor a regular file")
    if not os.access(path, access):
        raise UvmError(f"-v {text!r}: {path} can't be read")
    return path
