"""What keepers have to say, in one file of limited size with one older file beside it.

A keeper runs for as long as its VM, and what a guest does may be worth a line each time.
"""

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import Final

from uvm.paths import cache_directory

#: Size from which on a new file is begun, in bytes; so twice as much is kept at most.
LOG_LIMIT: Final = 1 << 20
#: Longest entry, in bytes; of a longer one the end is kept: the last lines of a traceback.
LONGEST_ENTRY: Final = 1 << 16


def log_path() -> Path:
    """Return the path of the log of all keepers."""
    return cache_directory() / "keeper.log"


def old_path(path: Path) -> Path:
    """Return the path that a log has when a new one was begun."""
    return path.with_name(f"{path.name}.old")


def open_log(path: Path, limit: int = LOG_LIMIT) -> int:
    """Return a descriptor that appends to a log, which is begun anew where it is too long.

    Several processes can do so at the same time.

    Raises:
        OSError: It can't be written.
    """
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(descriptor).st_size < limit:
            return descriptor
        try:
            # Who was faster has moved it already; then the path is another file's.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    os.replace(path, old_path(path))
        finally:
            os.close(descriptor)


class KeeperLogHandler(logging.Handler):
    """Appends entries to the log, which is opened for each: another keeper may begin it anew.

    Args:
        path: The log.
        limit: Size from which on a new one is begun, in bytes.
    """

    def __init__(self, path: Path, limit: int = LOG_LIMIT) -> None:
        super().__init__()
        self._path = path
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        """Append an entry; one that can't be written is reported to stderr, as usual."""
        try:
            entry = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
            descriptor = open_log(self._path, self._limit)
            try:
                os.write(descriptor, entry[-LONGEST_ENTRY:])
            finally:
                os.close(descriptor)
        except Exception:  # noqa: BLE001 - as in the standard library's handlers
            self.handleError(record)


def configure_log(name: str, path: Path, limit: int = LOG_LIMIT) -> None:
    """Send warnings and errors of this process to the log.

    Args:
        name: Name of the VM, which each entry begins with.
        path: The log.
        limit: Size from which on a new one is begun, in bytes.
    """
    handler = KeeperLogHandler(path, limit)
    form = f"%(asctime)s %(levelname)s {name.replace('%', '%%')} %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
