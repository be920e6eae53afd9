"""Places in the guest that a host names: checked before, tidied after."""

from __future__ import annotations

import os
from errno import EBUSY, EEXIST, EIO, ENOENT, ENOTDIR, ENOTEMPTY, EROFS
from logging import getLogger
from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from gcs.storage.mounts import MountSystem

logger = getLogger(__name__)

# Mounting over these takes the agent's own ground away.
_KERNEL_TREES = ("/proc", "/sys", "/dev")
_AGENT_PLACES = ("/", "/run", "/bin", "/sbin", "/usr", "/lib", "/lib64", "/etc", "/usr/lib/gcs")


def checked_path(path: str, what: str) -> str:
    """The normal form of an absolute path; symbolic links are followed in its parents only.

    what: the setting it comes from, for the message.

    Raises GcsError when the path is not absolute or climbs with "..".
    """
    if not path.startswith("/"):
        raise GcsError(f"{what} {path!r} is not an absolute path")
    if ".." in path.split("/") or "\0" in path:
        raise GcsError(f'{what} {path!r} contains ".." or a zero byte')
    directory, name = os.path.split(os.path.normpath("/" + path.strip("/")))
    return os.path.join(os.path.realpath(directory), name)


def checked_target(path: str, what: str) -> str:
    """As `checked_path`, for a place where something is to appear or to vanish.

    Raises GcsError also for places that the guest itself lives on.
    """
    target = checked_path(path, what)
    in_kernel_tree = any(is_inside(target, tree) for tree in _KERNEL_TREES)
    if in_kernel_tree or target in _AGENT_PLACES:
        raise GcsError(f"{what} {path!r} belongs to the guest itself; choose another place")
    return target


def checked_mount_point(path: str, what: str) -> str:
    """As `checked_target`, for a mount: a symbolic link would lead it elsewhere."""
    target = checked_target(path, what)
    if os.path.islink(target):
        raise GcsError(f"{what} {path!r} is a symbolic link, not a place to mount on")
    return target


def is_inside(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or below it, component by component."""
    return (path.rstrip("/") + "/").startswith(directory.rstrip("/") + "/")


def make_directories(system: MountSystem, path: str, mode: int, undo: ExitStack) -> None:
    """Make a directory and its missing parents, all with `mode`.

    undo: gets the removal of exactly the directories that were made.

    Raises OSError naming the directory; with ENOSPC it tells how full the file system is.
    """
    missing = []
    place = path
    while not os.path.lexists(place):
        missing.append(place)
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), place)
    for directory in reversed(missing):
        try:
            system.make_directory(directory, mode)
        except FileExistsError:
            continue  # a request that runs at the same time made it, and is the one to remove it
        except OSError as error:
            raise OSError(error.errno, _with_space(error, place), directory) from None
        undo.callback(discard_directory, directory)


def remove_directory(path: str) -> None:
    """Remove an empty directory; one that is gone is fine, one that is not empty stays.

    Never removes what is inside: it may be somebody's data, or a mount.  One on a disk that was
    pulled, or can't be written any more, stays, too: it goes with the disk.
    """
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (ENOTEMPTY, EEXIST, EBUSY, EROFS, EIO):
            logger.warning("directory %s stays: %s", path, error.strerror)
        elif error.errno != ENOENT:
            raise


def discard_directory(path: str) -> None:
    """As `remove_directory`, but a failure is logged: undoing has to go on."""
    try:
        remove_directory(path)
    except OSError as error:
        logger.warning("undo: %s", error)


def _with_space(error: OSError, place: str) -> str:
    from errno import EDQUOT, ENOSPC

    text = f"make directory: {error.strerror}"
    if error.errno not in (ENOSPC, EDQUOT):
        return text
    space = os.statvfs(place)
    gib = space.f_frsize / (1 << 30)
    return (
        f"{text} (file system of {place}: {space.f_bavail * gib:.2f} of "
        f"{space.f_blocks * gib:.2f} GiB and {space.f_favail} of {space.f_files} inodes free)"
    )
