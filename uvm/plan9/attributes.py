"""Attributes of files: those of stat(2), and extended ones."""

import errno
import os
import stat
from typing import Final

from uvm.plan9 import kernel
from uvm.plan9.codec import Qid
from uvm.plan9.fids import Attribute, Fid
from uvm.plan9.messages import (
    ATTRIBUTES_BASIC,
    SET_ATIME,
    SET_ATIME_GIVEN,
    SET_CTIME,
    SET_GROUP,
    SET_MODE,
    SET_MTIME,
    SET_MTIME_GIVEN,
    SET_SIZE,
    SET_USER,
    Rgetattr,
    Rstatfs,
    Tsetattr,
    Twrite,
    Txattrcreate,
)

#: Longest value of an extended attribute (XATTR_SIZE_MAX).
LONGEST_VALUE: Final = 65536

_SECOND: Final = 1_000_000_000
_UNCHANGED: Final = (0, kernel.UTIME_OMIT)
_NOW: Final = (0, kernel.UTIME_NOW)
#: What programs expect of a file system of this kind (V9FS_MAGIC).
_FILE_SYSTEM: Final = 0x01021997


def describe(status: os.stat_result, qid: Qid, io_unit: int) -> Rgetattr:
    """Return the attributes of a file.

    Args:
        status: Of the host.
        qid: What the guest knows it by.
        io_unit: Bytes that fit into one message: programs are told to take as many at once.
    """
    block_size = max(status.st_blksize, 1)
    return Rgetattr(
        valid=ATTRIBUTES_BASIC,
        qid=qid,
        mode=status.st_mode,
        user=status.st_uid,
        group=status.st_gid,
        links=status.st_nlink,
        device=status.st_rdev,
        size=status.st_size,
        block_size=max(io_unit - io_unit % block_size, block_size),
        blocks=status.st_blocks,
        atime=_unsigned(status.st_atime_ns // _SECOND),
        atime_nanoseconds=status.st_atime_ns % _SECOND,
        mtime=_unsigned(status.st_mtime_ns // _SECOND),
        mtime_nanoseconds=status.st_mtime_ns % _SECOND,
        ctime=_unsigned(status.st_ctime_ns // _SECOND),
        ctime_nanoseconds=status.st_ctime_ns % _SECOND,
    )


def describe_file_system(status: os.statvfs_result) -> Rstatfs:
    """Return what there is to know about the file system a file is on."""
    return Rstatfs(
        type=_FILE_SYSTEM,
        block_size=status.f_frsize,
        blocks=status.f_blocks,
        free_blocks=status.f_bfree,
        available_blocks=status.f_bavail,
        files=status.f_files,
        free_files=status.f_ffree,
        file_system=status.f_fsid & 0xFFFF_FFFF_FFFF_FFFF,
        longest_name=status.f_namemax,
    )


def change(fid: Fid, request: Tsetattr) -> None:
    """Set the attributes that a request names.

    The owner first, since the kernel takes the set-user-id bit away with it; times last, since
    everything else changes them.

    Raises:
        OSError: The kernel refused one; those before it stay changed.
    """
    path = kernel.of_descriptor(fid.held)
    if request.valid & (SET_USER | SET_GROUP | SET_CTIME):
        user = request.user if request.valid & SET_USER else -1
        group = request.group if request.valid & SET_GROUP else -1
        os.chown(path, user, group)
    if request.valid & SET_MODE:
        if stat.S_ISLNK(os.fstat(fid.held).st_mode):
            raise OSError(errno.EOPNOTSUPP, "a symbolic link has no mode of its own")
        os.chmod(path, request.mode & 0o7777)
    if request.valid & SET_SIZE:
        _truncate(fid, request.size)
    if request.valid & (SET_ATIME | SET_MTIME):
        atime = mtime = _UNCHANGED
        if request.valid & SET_ATIME:
            given = (_signed(request.atime), request.atime_nanoseconds)
            atime = given if request.valid & SET_ATIME_GIVEN else _NOW
        if request.valid & SET_MTIME:
            given = (_signed(request.mtime), request.mtime_nanoseconds)
            mtime = given if request.valid & SET_MTIME_GIVEN else _NOW
        kernel.set_times(path, atime, mtime)


def read_extended(held: int, name: bytes) -> Attribute:
    """Return an extended attribute of a file, or with an empty name the list of all names.

    Raises:
        OSError: ENODATA, it has none; EOPNOTSUPP, the guest may not know.
    """
    path = kernel.of_descriptor(held)
    if name:
        _check_extended(name)
        return Attribute(name, bytearray(os.getxattr(path, name)))
    names = [os.fsencode(known) for known in os.listxattr(path)]
    allowed = b"".join(known + b"\0" for known in names if _is_allowed(known))
    return Attribute(name, bytearray(allowed))


def new_extended(request: Txattrcreate) -> Attribute:
    """Return an extended attribute that is going to be written, and set in the end.

    Raises:
        OSError: Its size or name can't be.
    """
    _check_extended(request.name)
    if request.size > LONGEST_VALUE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return Attribute(request.name, bytearray(request.size), request.flags)


def collect(attribute: Attribute, request: Twrite) -> int:
    """Take a piece of the value of an extended attribute; returns its length.

    Raises:
        OSError: It does not fit.
    """
    if attribute.flags is None:
        raise OSError(errno.EBADF, "the extended attribute is being read")
    end = request.offset + len(request.data)
    if end > len(attribute.value):
        raise OSError(errno.ENOSPC, "more than the size that was announced")
    attribute.value[request.offset : end] = request.data
    attribute.written += len(request.data)
    return len(request.data)


def write_extended(held: int, attribute: Attribute) -> None:
    """Set an extended attribute whose value has come; a kernel removes one by an empty value.

    Raises:
        OSError: The value is not complete, or the kernel refused.
    """
    path = kernel.of_descriptor(held)
    if attribute.written != len(attribute.value):
        raise OSError(errno.EINVAL, "the value of the extended attribute is not complete")
    if not attribute.value and attribute.flags == os.XATTR_REPLACE:
        os.removexattr(path, attribute.name)
    else:
        os.setxattr(path, attribute.name, attribute.value, attribute.flags or 0)


def _truncate(fid: Fid, size: int) -> None:
    if not stat.S_ISREG(os.fstat(fid.held).st_mode):
        raise OSError(errno.EINVAL, "only files have a size to set")
    if fid.opened is not None:
        try:
            # Who may write to an open file may do this, whatever its mode is now.
            os.ftruncate(fid.opened, size)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return
    os.truncate(kernel.of_descriptor(fid.held), size)


def _check_extended(name: bytes) -> None:
    if not _is_allowed(name):
        raise OSError(errno.EOPNOTSUPP, f"{name!r} is the host's own")


def _is_allowed(name: bytes) -> bool:
    # Others mean something to the host: labels, access lists, layers of overlays.
    return name.startswith(b"user.") or name == b"security.capability"


def _unsigned(number: int) -> int:
    return number & 0xFFFF_FFFF_FFFF_FFFF


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
