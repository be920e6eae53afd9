"""`install-drivers <overlay path> <driver directory>`: load kernel modules of a host (spec 7.5).

The directory, with `lib/modules/<release>` in it, is a read-only disk of the host's.  depmod has to
write beside the modules, so it is laid under a directory that can be written to.
"""

from __future__ import annotations

import fcntl
import os

from gcs.tools import say
from gcs.tools.run import ProgramError, run

UPPER, WORK, CONTENT = "upper", "work", "content"
#: Ends of modules' file names, which kmod reads itself.
_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")


class InstallError(Exception):
    """The drivers can't be installed; the text says why."""


def main(arguments: list[str]) -> int:
    """Install drivers; returns the exit status, 0 or 1."""
    try:
        if len(arguments) != 2:
            raise InstallError(f"expected two args, instead got {len(arguments)}")
        install(*arguments)
    except (InstallError, ProgramError) as error:
        say.entry("fatal", f"error while installing drivers: {error}")
    except OSError as error:
        say.entry("fatal", f"error while installing drivers: {say.error_text(error)}")
    else:
        return 0
    return 1


def install(overlay: str, drivers: str) -> None:
    """Load the modules of a directory, unless that was done before.

    overlay: belongs to these drivers alone.  When it exists they are installed.
    drivers: the directory.

    Raises InstallError, ProgramError, OSError; nothing is left of the overlay, so that the next
    call tries again.
    """
    overlay = os.path.abspath(overlay)
    parent = os.path.dirname(overlay)
    os.makedirs(parent, exist_ok=True)
    # Two containers with the same device come at the same time: the second is to wait.
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.lexists(overlay):
            _install(overlay, os.path.abspath(drivers))
    finally:
        os.close(lock)


def find_modules(directory: str) -> list[str]:
    """Return the names of all modules below a directory, sorted.

    Raises OSError when a directory can't be read.
    """
    names = set()
    for _, _, files in os.walk(directory, onerror=_fail):
        for file in files:
            if file.endswith(_SUFFIXES):
                names.add(file.rpartition(".ko")[0])
    return sorted(names)


def _install(overlay: str, drivers: str) -> None:
    from gcs.linux.mount import MNT_DETACH, unmount
    from gcs.storage.overlay import mount_overlay

    if not os.path.isdir(drivers):
        raise InstallError(f"{drivers} is not a directory")
    content = f"{overlay}/{CONTENT}"
    mounted = False
    try:
        for name in (UPPER, WORK, CONTENT):
            os.makedirs(f"{overlay}/{name}")
        mount_overlay(content, [drivers], f"{overlay}/{UPPER}", f"{overlay}/{WORK}")
        mounted = True
        names = find_modules(content)
        if not names:
            raise InstallError(f"there are no kernel modules ({', '.join(_SUFFIXES)}) in {drivers}")
        run(["depmod", "-b", content])
        run(["modprobe", "-d", content, "-a", *names])
    except BaseException:
        if mounted:
            unmount(content, MNT_DETACH)
        _remove_tree(overlay)
        raise


def _remove_tree(directory: str) -> None:
    """Remove a directory and all in it, mount points excepted, as far as that goes."""
    for path, directories, files in os.walk(directory, topdown=False):
        try:
            for name in files:
                os.unlink(f"{path}/{name}")
            for name in directories:
                _remove_directory(f"{path}/{name}")
        except OSError as error:
            say.entry("warning", f"left behind: {say.error_text(error)}")
    if os.path.isdir(directory):
        _remove_directory(directory)


def _remove_directory(path: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    else:
        os.rmdir(path)


def _fail(error: OSError) -> None:
    raise error
