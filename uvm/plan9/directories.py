"""Names in directories: listed, linked, renamed, removed."""

import errno
import os
import stat
import struct
from typing import Final

from uvm.plan9 import kernel
from uvm.plan9.codec import QID_DIRECTORY, QID_FILE, QID_SYMLINK, Qid
from uvm.plan9.fids import Fid
from uvm.plan9.messages import REMOVE_DIRECTORY
from uvm.plan9.share import check_name

# qid[13] offset[8] type[1] and the length of the name
_ENTRY: Final = struct.Struct("<BIQQBH")
_DT_DIRECTORY: Final = 4
_DT_SYMLINK: Final = 10
_QID_TYPES: Final = {_DT_DIRECTORY: QID_DIRECTORY, _DT_SYMLINK: QID_SYMLINK}
#: The kernel's buffer: never smaller, for the first name has to fit; nor larger than worth it.
_SMALLEST_BUFFER: Final = 1024
_LARGEST_BUFFER: Final = 65536


def read(fid: Fid, offset: int, room: int) -> bytes:
    """Return entries of an open directory, as many as fit; empty at the end.

    Args:
        fid: The directory.
        offset: 0, or what came with the last entry the guest has.
        room: Bytes there is room for.

    Raises:
        OSError: It is no open directory, or not even one entry fits.
    """
    size = min(max(room, _SMALLEST_BUFFER), _LARGEST_BUFFER)
    entries = _visible(fid, offset, size)
    parts: list[bytes] = []
    for entry in entries:
        room -= _ENTRY.size + len(entry.name)
        if room < 0:
            break
        qid = _qid(fid, entry)
        parts += (_ENTRY.pack(*qid, entry.position, entry.type, len(entry.name)), entry.name)
    if entries and not parts:
        raise OSError(errno.EINVAL, "there is no room for one entry")
    return b"".join(parts)


def link(fid: Fid, directory: Fid, name: bytes) -> None:
    """Give a file another name."""
    check_name(name)
    path = kernel.of_descriptor(fid.held)
    os.link(path, name, dst_dir_fd=directory.held, follow_symlinks=True)


def rename(fid: Fid, directory: Fid, name: bytes) -> None:
    """Move a file, wherever it is now."""
    check_name(name)
    parent, old = fid.share.place(fid.held)
    try:
        os.rename(old, name, src_dir_fd=parent, dst_dir_fd=directory.held)
    finally:
        os.close(parent)


def rename_at(old: Fid, old_name: bytes, new: Fid, new_name: bytes) -> None:
    """Move what has a name."""
    check_name(old_name)
    check_name(new_name)
    os.rename(old_name, new_name, src_dir_fd=old.held, dst_dir_fd=new.held)


def unlink_at(directory: Fid, name: bytes, flags: int) -> None:
    """Remove a name; of a directory if the flags say so."""
    check_name(name)
    if flags & REMOVE_DIRECTORY:
        os.rmdir(name, dir_fd=directory.held)
    else:
        os.unlink(name, dir_fd=directory.held)


def remove(fid: Fid) -> None:
    """Remove a file, wherever it is now."""
    directory, name = fid.share.place(fid.held)
    try:
        if stat.S_ISDIR(os.fstat(fid.held).st_mode):
            os.rmdir(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _visible(fid: Fid, offset: int, size: int) -> list[kernel.Entry]:
    """Read entries until there are some that the guest may know of, or the directory ends."""
    while entries := kernel.read_entries(fid.io(), offset, size):
        visible = [
            entry
            for entry in entries
            if entry.name in (b".", b"..") or fid.share.shows(fid.held, entry.name)
        ]
        if visible:
            return visible
        offset = entries[-1].position
    return []


def _qid(fid: Fid, entry: kernel.Entry) -> Qid:
    if entry.name == b".." and fid.share.is_root(fid.held):
        # What is above is nobody's business.
        return fid.share.qid(os.fstat(fid.held))
    return Qid(_QID_TYPES.get(entry.type, QID_FILE), 0, entry.inode)
