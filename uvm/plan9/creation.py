"""New files, of all kinds, with the owner and exactly the mode that the guest wants."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from uvm.plan9 import kernel
from uvm.plan9.codec import Qid
from uvm.plan9.fids import Fid
from uvm.plan9.messages import NO_USER, Tlcreate, Tmkdir, Tmknod, Tsymlink
from uvm.plan9.share import HOLD, changes, check_name, open_flags, open_held

_PERMISSIONS = 0o7777


def create_file(directory: Fid, request: Tlcreate) -> Fid:
    """Create a file, or open it where it exists and the guest does not insist on a new one.

    Returns:
        The file, open.

    Raises:
        OSError: EEXIST, ELOOP for a symbolic link, or what the kernel says.
    """
    check_name(request.name)
    flags = open_flags(request.flags)
    try:
        descriptor = os.open(
            request.name,
            flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            0o600,
            dir_fd=directory.held,
        )
    except FileExistsError:
        if request.flags & 0o200:
            raise
        return _open_existing(directory, request.name, flags)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        undo.callback(_remove_again, os.unlink, request.name, directory.held)
        held = os.open(kernel.of_descriptor(descriptor), os.O_PATH | os.O_CLOEXEC)
        undo.callback(os.close, held)
        _hand_over(held, directory, request.group, request.mode & _PERMISSIONS)
        undo.pop_all()
    created = Fid(directory.share, held, directory.user)
    created.opened = descriptor
    return created


def make_directory(directory: Fid, request: Tmkdir) -> Qid:
    """Make a directory."""
    check_name(request.name)
    os.mkdir(request.name, 0o700, dir_fd=directory.held)
    mode = request.mode & _PERMISSIONS
    return _finish(directory, request.name, request.group, mode, os.rmdir)


def make_symlink(directory: Fid, request: Tsymlink) -> Qid:
    """Make a symbolic link; where it leads is the guest's business."""
    check_name(request.name)
    os.symlink(request.target, request.name, dir_fd=directory.held)
    return _finish(directory, request.name, request.group, None, os.unlink)


def make_node(directory: Fid, request: Tmknod) -> Qid:
    """Make a file, a pipe or a socket.

    Raises:
        OSError: EPERM for devices, which a guest has its own of: these would be the host's.
    """
    check_name(request.name)
    kind = stat.S_IFMT(request.mode) or stat.S_IFREG
    if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
        raise OSError(errno.EPERM, "a share has no devices")
    os.mknod(request.name, kind | 0o600, dir_fd=directory.held)
    mode = request.mode & _PERMISSIONS
    return _finish(directory, request.name, request.group, mode, os.unlink)


def _open_existing(directory: Fid, name: bytes, flags: int) -> Fid:
    held = os.open(name, HOLD, dir_fd=directory.held)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, held)
        if changes(flags) and stat.S_ISDIR(os.fstat(held).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        descriptor = open_held(held, flags)
        undo.pop_all()
    found = Fid(directory.share, held, directory.user)
    found.opened = descriptor
    return found


def _finish(
    directory: Fid,
    name: bytes,
    group: int,
    mode: int | None,
    remove: Callable[..., None],
) -> Qid:
    with contextlib.ExitStack() as undo:
        undo.callback(_remove_again, remove, name, directory.held)
        held = os.open(name, HOLD, dir_fd=directory.held)
        try:
            _hand_over(held, directory, group, mode)
            qid = directory.share.qid(os.fstat(held))
        finally:
            os.close(held)
        undo.pop_all()
    return qid


def _hand_over(held: int, directory: Fid, group: int, mode: int | None) -> None:
    """Give a new file to the guest's user; a server that is not root keeps it for itself."""
    path = kernel.of_descriptor(held)
    if os.geteuid() == 0:
        user = -1 if directory.user == NO_USER else directory.user
        os.chown(path, user, -1 if group == NO_USER else group)
    if mode is not None:
        os.chmod(path, mode)


def _remove_again(remove: Callable[..., None], name: bytes, directory: int) -> None:
    # The failure that led here is what the guest is told.
    with contextlib.suppress(OSError):
        remove(name, dir_fd=directory)
