"""Mounting and unmounting for the drivers, behind an interface that a test can record."""

from __future__ import annotations

import os
import time
from errno import EBUSY, EINVAL, ENOENT
from logging import getLogger
from typing import TYPE_CHECKING

from gcs.linux import mount as linux_mount
from gcs.linux.mount import UMOUNT_NOFOLLOW
from gcs.linux.syscalls import Linux
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.trace import span
from gcs.storage.paths import remove_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from gcs.linux.syscalls import Syscalls

    class MountSystem(Syscalls, Protocol):
        """`gcs.linux.syscalls.Syscalls` and what storage needs beyond it."""

        def mount_overlay(self, target: str, layers: Sequence[str], upper: str, work: str) -> None:
            """See `gcs.storage.overlay.mount_overlay`."""

        def mounts_under(self, path: str) -> list[str]:
            """See `gcs.linux.mount.mounts_under`."""


logger = getLogger(__name__)

#: How long to wait for processes that are just ending to let go of a mount, in seconds.
BUSY_LIMIT = 1.0
_BUSY_PAUSE = 0.02


class KernelMounts(Linux):
    """The kernel's own."""

    def mount_overlay(self, target: str, layers: Sequence[str], upper: str, work: str) -> None:
        """See `gcs.storage.overlay.mount_overlay`."""
        from gcs.storage.overlay import mount_overlay

        mount_overlay(target, layers, upper, work)

    def mounts_under(self, path: str) -> list[str]:
        """See `gcs.linux.mount.mounts_under`."""
        return linux_mount.mounts_under(path)


def is_mounted(system: MountSystem, path: str) -> bool:
    """Whether something is mounted exactly at `path`."""
    return path in system.mounts_under(path)


def require_unmounted(system: MountSystem, path: str) -> None:
    """Raise GcsError when something is mounted at `path` already."""
    if is_mounted(system, path):
        raise GcsError(f"something is mounted at {path} already; remove it first")


def unmount_path(system: MountSystem, path: str, *, busy_limit: float = BUSY_LIMIT) -> None:
    """Unmount everything at `path` and remove the directory (spec 5.8).

    path: absolute, free of symbolic links.  One that does not exist is fine.  A directory that is
    not empty afterwards stays, and so does everything while an unmount fails: nothing is detached
    behind the back of those who use it.
    busy_limit: seconds to wait for the last users.

    Raises GcsError naming the users when it is in use, and for other failures.
    """
    with span("storage::UnmountPath", target=path, remove=True):
        _unmount_path(system, path, busy_limit)


def _unmount_path(system: MountSystem, path: str, busy_limit: float) -> None:
    path = os.path.realpath(path)
    deadline = time.monotonic() + busy_limit
    while is_mounted(system, path):
        try:
            system.unmount(path, UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (EINVAL, ENOENT):
                break  # somebody else unmounted it since
            if error.errno != EBUSY:
                raise GcsError(f"unmount {path}: {error_text(error)}") from error
            below = [place for place in system.mounts_under(path) if place != path]
            if below or time.monotonic() >= deadline:
                raise GcsError(f"unmount {path}: in use by {_users(path, below)}") from error
            time.sleep(_BUSY_PAUSE)
    try:
        remove_directory(path)
    except OSError as error:
        raise GcsError(f"remove directory {path}: {error_text(error)}") from error


def unmount_all_under(system: MountSystem, path: str, *, busy_limit: float = BUSY_LIMIT) -> None:
    """Unmount all that is mounted at `path` and below, last first; directories stay.

    Goes on when one fails.  Raises GcsError with all failures at the end.
    """
    failures = []
    for place in system.mounts_under(os.path.realpath(path)):
        deadline = time.monotonic() + busy_limit
        while True:
            try:
                system.unmount(place, UMOUNT_NOFOLLOW)
            except OSError as error:
                if error.errno == EBUSY and time.monotonic() < deadline:
                    time.sleep(_BUSY_PAUSE)
                    continue
                if error.errno not in (EINVAL, ENOENT):
                    failures.append(error_text(error))
            break
    if failures:
        raise GcsError("; ".join(failures))


def try_unmount(system: MountSystem, path: str) -> None:
    """Unmount as part of undoing; a failure is logged, so that the undoing goes on."""
    try:
        system.unmount(path, UMOUNT_NOFOLLOW)
    except OSError as error:
        logger.warning("undo: %s", error_text(error))


def _users(path: str, below: list[str]) -> str:
    if below:
        return f"what is mounted at {', '.join(below[:5])}; remove that first"
    processes = _processes_using(path)
    return ", ".join(processes[:5]) if processes else "an unknown process or kernel object"


def _processes_using(path: str) -> list[str]:
    """Processes with an open file, working or root directory at or below `path`."""
    users = []
    prefix = path + "/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root", f"/proc/{pid}/exe"]
            links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
            if any(_points_into(link, prefix) for link in links):
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                    users.append(f"process {pid} ({file.read().strip()})")
        except OSError:
            continue  # it has ended meanwhile
    return users


def _points_into(link: str, prefix: str) -> bool:
    try:
        return (os.readlink(link) + "/").startswith(prefix)
    except OSError:
        return False  # closed meanwhile, or a kernel thread
