"""A shared directory or file, and the ways from one file to another: none leads out of it.

Every file the guest knows is held by a descriptor of O_PATH. One step of a walk opens one name
beneath such a descriptor and follows no link, so neither links nor a file of the guest that is
renamed at the same time can lead elsewhere. Links are the guest's to resolve.
"""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path
from typing import Final

from uvm.beneath import open_beneath
from uvm.errors import UvmError
from uvm.plan9 import kernel
from uvm.plan9.codec import QID_DIRECTORY, QID_FILE, QID_SYMLINK, Qid

#: How a file is held that nobody reads or writes.
HOLD: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_DELETED: Final = b" (deleted)"
#: Where the number of a file's device goes in the number of the file (see :meth:`Share.qid`).
_DEVICE_SHIFT: Final = 48
_QID_TYPES: Final = {stat.S_IFDIR: QID_DIRECTORY, stat.S_IFLNK: QID_SYMLINK}
# Of what a guest may ask for; the numbers are those of x86, whatever this machine is.
_OPEN_FLAGS: Final = (
    (0o1000, os.O_TRUNC),
    (0o2000, os.O_APPEND),
    (0o10000, os.O_DSYNC),
    (0o200000, os.O_DIRECTORY),
    (0o4010000, os.O_SYNC),
)


class Share:
    """A directory that guests can attach to, or one file of a directory.

    It is open for whoever has made it, and for each of its files that a guest has: an operation may
    still be under way when it is given up.

    Args:
        directory: The directory.
        read_only: Whether guests may change nothing in it.
        file: All that guests see of it, if it is not the whole. They may write to this file, and
            neither give it another name nor remove it nor make others.

    Raises:
        UvmError: It can't be opened, or is no directory.
    """

    def __init__(
        self, directory: Path, *, read_only: bool = False, file: str | None = None
    ) -> None:
        self.directory = directory
        self.read_only = read_only
        self.file = None if file is None else os.fsencode(file)
        try:
            self.root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UvmError(f"{directory} can't be shared: {error.strerror}") from error
        status = os.fstat(self.root)
        self._identity = _identity(status)
        # Device 0 is the root's: there the numbers of files are those of the host.
        self._devices = {status.st_dev: 0}
        self._lock = threading.Lock()
        self._users = 1

    def hold(self) -> None:
        """Keep it open for one more user."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Give it up; the last user closes it."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            os.close(self.root)

    def qid(self, status: os.stat_result) -> Qid:
        """Return what the guest knows a file by.

        Numbers of files are unique on a device only, and directories below may be of others.
        """
        with self._lock:
            device = self._devices.setdefault(status.st_dev, len(self._devices))
        path = (status.st_ino ^ (device << _DEVICE_SHIFT)) & 0xFFFF_FFFF_FFFF_FFFF
        version = (status.st_mtime_ns ^ status.st_size) & 0xFFFF_FFFF
        return Qid(_QID_TYPES.get(stat.S_IFMT(status.st_mode), QID_FILE), version, path)

    def is_root(self, descriptor: int) -> bool:
        """Whether a descriptor is the shared directory itself."""
        return _identity(os.fstat(descriptor)) == self._identity

    def step(self, directory: int, name: bytes) -> int:
        """Return a descriptor of what a directory has under a name; ``..`` ends at the root.

        Raises:
            OSError: There is no such thing, or the name can't be one.
        """
        if name == b"..":
            return self._parent(directory)
        check_name(name)
        if not self.shows(directory, name):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.open(name, HOLD, dir_fd=directory)

    def shows(self, directory: int, name: bytes) -> bool:
        """Whether guests may know of an entry of a directory."""
        # Where the file was, there may be a directory by now: nothing of that is shared.
        return self.file is None or (name == self.file and self.is_root(directory))

    def place(self, descriptor: int) -> tuple[int, bytes]:
        """Return the directory a file is in, as a new descriptor, and its name there.

        Raises:
            OSError: It has none any more, or is the root.
        """
        status = os.fstat(descriptor)
        if _identity(status) == self._identity:
            raise OSError(errno.EBUSY, "the root of the share stays where it is")
        head, name = os.path.split(self._relative(descriptor))
        directory = self._open_directory(head)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, directory)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if _identity(found) != _identity(status):
                raise OSError(errno.ENOENT, "it was moved away")
            undo.pop_all()
        return directory, name

    def _parent(self, directory: int) -> int:
        if self.is_root(directory):
            return self._open_directory(b"")
        return self._open_directory(os.path.dirname(self._relative(directory)))

    def _open_directory(self, path: bytes) -> int:
        return open_beneath(self.root, path or b".", os.O_PATH | os.O_DIRECTORY)

    def _relative(self, descriptor: int) -> bytes:
        """Return the path of a file below the root, as the kernel knows it now."""
        root = os.fsencode(os.readlink(kernel.of_descriptor(self.root)))
        path = os.fsencode(os.readlink(kernel.of_descriptor(descriptor)))
        prefix = root.rstrip(b"/") + b"/"
        if not path.startswith(prefix) or (path.endswith(_DELETED) and not _exists(path)):
            raise OSError(errno.ENOENT, "it is no longer in the share")
        return path[len(prefix) :]


def check_name(name: bytes) -> None:
    """Check that bytes can name a file in a directory.

    Raises:
        OSError: They can't.
    """
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, f"{name!r} is no name of a file")


def open_flags(flags: int) -> int:
    """Return this machine's flags of open(2) for those of a guest.

    What concerns the guest's side only is left out: creation, links, terminals, waiting, direct
    input and output.

    Raises:
        OSError: The mode of access is none.
    """
    access = flags & 0o3
    if access == 0o3:
        raise OSError(errno.EINVAL, "no mode of access")
    for theirs, ours in _OPEN_FLAGS:
        if flags & theirs == theirs:
            access |= ours
    return access


def changes(flags: int) -> bool:
    """Whether opening a file with flags is meant to change it."""
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC))


def open_held(held: int, flags: int) -> int:
    """Open a file that is held, for input and output.

    Only regular files and directories: a pipe would block, and a device of the host is not the
    guest's.

    Raises:
        OSError: It is something else, or the kernel refused.
    """
    mode = os.fstat(held).st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.ENXIO, "only files and directories can be opened")
    return os.open(kernel.of_descriptor(held), flags | os.O_CLOEXEC)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _exists(path: bytes) -> bool:
    return os.path.lexists(path)
