"""Directories of running VMs: sockets, console and a lock that says whether the owner lives."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from uvm.errors import UvmError
from uvm.paths import runtime_directory

#: A unix socket's path has 108 bytes; the longest name here is ``vsock_1073741825``.
_LONGEST_DIRECTORY: Final = 108 - len("/vsock_4294967295") - 1
_LOCK: Final = "lock"


class RunDirectory:
    """The directory of one VM; removed at the end, or by whoever comes later.

    Args:
        path: The directory; its name is the VM's.
        lock: Descriptor of the locked lock file.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, name: str | None = None) -> "RunDirectory":
        """Make and lock a directory.

        Args:
            name: Name of the VM; by default a random one.

        Raises:
            UvmError: A VM of that name is running, or the name can't be used.
        """
        base = runtime_directory()
        sweep(base)
        chosen = name or f"run-{secrets.token_hex(4)}"
        if not chosen.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UvmError(f"{chosen!r} can't name a VM: use letters, digits, '.', '-' and '_'")
        path = base / chosen
        if len(os.fsencode(path)) > _LONGEST_DIRECTORY:
            raise UvmError(f"{path} is too long for the path of a socket: set XDG_RUNTIME_DIR")
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            raise UvmError(f"a VM named {chosen} is running; `uvm stop {chosen}` ends it") from None
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock)

    @property
    def name(self) -> str:
        """Name of the VM."""
        return self.path.name

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def running(base: Path | None = None) -> list[Path]:
    """Return the directories whose owners live."""
    return [path for path, alive in _scan(base or runtime_directory()) if alive]


def wait_released(path: Path) -> None:
    """Wait until a directory's owner has ended."""
    with contextlib.suppress(FileNotFoundError):
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)


def sweep(base: Path) -> None:
    """Remove directories of owners that were killed."""
    for path, alive in _scan(base):
        if not alive:
            shutil.rmtree(path, ignore_errors=True)


def _scan(base: Path) -> Iterator[tuple[Path, bool]]:
    for path in sorted(base.iterdir()):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield path, True
            else:
                yield path, False
            finally:
                os.close(lock)
