"""Directories inside a directory that containers write to: no name leads out of it."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from gcs.linux.beneath import open_beneath, path_of
from gcs.protocol.errors import GcsError, error_text
from gcs.storage.paths import discard_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What containers of one pod share is for all their users.
SHARED_MODE: Final = 0o777
_ESCAPES: Final = (errno.EXDEV, errno.ELOOP)


def components(path: str, what: str) -> list[str]:
    """Split a path below a directory into names, without "." and "..".

    Args:
        path: The path; a leading slash means nothing.
        what: Where it comes from, for the message.

    Raises:
        GcsError: It climbs out of the directory, or has a NUL byte.
    """
    names: list[str] = []
    for name in path.split("/"):
        if name == ".." and names:
            names.pop()
        elif name == ".." or "\0" in name:
            raise GcsError(f"{what} {path!r} leads out of its directory, or has a NUL byte")
        elif name not in ("", "."):
            names.append(name)
    return names


def make_beneath(base: str, path: str, undo: ExitStack, what: str) -> str:
    """Make directories below a directory, where they are missing, with mode 0777.

    The last component may also be an existing file.

    Args:
        base: The directory; it exists.
        path: What is wanted below it.
        undo: Gets the removal of exactly the directories that were made.
        what: Where the path comes from, for messages.

    Returns:
        The path, free of symbolic links.

    Raises:
        GcsError: It leads out of the directory, by ".." or by a symbolic link, or can't be made.
    """
    names = components(path, what)
    try:
        with ExitStack() as descriptors:
            directory = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            descriptors.callback(os.close, directory)
            current = directory
            for depth in range(1, len(names) + 1):
                current = _open_or_make(directory, current, names[:depth], undo)
                descriptors.callback(os.close, current)
            return path_of(current)
    except OSError as error:
        if error.errno in _ESCAPES:
            raise GcsError(f"{what} {path!r} leads out of {base} by a symbolic link") from error
        raise GcsError(f"{what} {path!r} below {base}: {error_text(error)}") from error


def _open_or_make(directory: int, parent: int, names: Sequence[str], undo: ExitStack) -> int:
    """Open a path below a directory whose parent is open; make its last component if need be."""
    path = "/".join(names)
    with suppress(FileNotFoundError):
        return open_beneath(directory, path, os.O_PATH)
    made = True
    try:
        os.mkdir(names[-1], SHARED_MODE, dir_fd=parent)
    except FileExistsError:
        made = False  # another request was faster; or a dangling link, and the next line fails
    descriptor = open_beneath(directory, path, os.O_PATH)
    if made:
        undo.callback(discard_directory, path_of(descriptor))
        # The umask took something away; and the mode of a descriptor with O_PATH can't be set.
        os.chmod(f"/proc/self/fd/{descriptor}", SHARED_MODE)
    return descriptor
