"""The directory of a container in the guest: what the agent puts there, and its removal."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from typing import TYPE_CHECKING

from gcs.linux.mount import mounts_under
from gcs.protocol.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

CONFIG = "config.json"


def check_path(path: str, what: str) -> str:
    """Return a path, normalised.

    Raises:
        InvalidArgumentError: Not absolute, the root directory, or with a NUL byte.
    """
    clean = os.path.normpath(path) if path else ""
    if not clean.startswith("/") or clean.strip("/") == "" or "\0" in clean:
        raise InvalidArgumentError(f"{what} {path!r} is not an absolute path of a directory")
    return clean


class Bundle:
    """Files that the agent writes into a bundle directory, which the host may have made before.

    Args:
        path: The directory.
    """

    __slots__ = ("_made_directory", "_written", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._made_directory = False
        self._written: list[str] = []

    def write(self, files: Mapping[str, bytes]) -> None:
        """Make the directory and write files into it; blocking.

        Raises OSError naming the file.
        """
        if not os.path.isdir(self.path):
            os.makedirs(self.path, 0o755)
            self._made_directory = True
        for name, content in files.items():
            path = os.path.join(self.path, name)
            self._written.append(path)
            with open(path, "wb") as file:
                file.write(content)

    def undo(self) -> None:
        """Remove what write() made, after a failure; blocking.

        What the host has put into the directory, such as a root file system, stays.
        """
        try:
            for path in self._written:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            if self._made_directory:
                os.rmdir(self.path)
        except OSError as error:
            logger.warning("bundle of a failed container is left: %s", error)


def remove_tree(path: str) -> list[str]:
    """Remove a directory with everything in it, except what is mounted there; blocking.

    A path that doesn't exist is fine; symbolic links are removed, not followed.

    Returns:
        Mount points that were met and left alone.

    Raises OSError; EBUSY when the directory is itself a mount point (its content is kept).
    """
    if not os.path.lexists(path):
        return []
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    mounted = set(mounts_under(real))
    if real in mounted:
        raise OSError(errno.EBUSY, f"remove: {os.strerror(errno.EBUSY)}, it is mounted", path)
    _remove(real, mounted)
    return sorted(mounted)


def _remove(path: str, mounted: set[str]) -> None:
    if path in mounted:
        return
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    with os.scandir(path) as entries:
        names = [entry.path for entry in entries]
    for name in names:
        _remove(name, mounted)
    if not any(point.startswith(path + "/") for point in mounted):
        os.rmdir(path)


def make_directories_beneath(root: str, path: str) -> None:
    """Make directories (0755) below a root that may hold hostile symbolic links; blocking.

    Follows no link: where one is met the rest is left to the container runtime, which resolves it
    inside the container.

    Raises OSError.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(root, flags & ~os.O_NOFOLLOW)
    try:
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if name == "..":
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=current)
            try:
                following = os.open(name, flags, dir_fd=current)
            except NotADirectoryError:
                return
            os.close(current)
            current = following
    finally:
        os.close(current)
