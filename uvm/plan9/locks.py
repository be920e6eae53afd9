"""Locks of ranges, for processes of the guest.

Each lock of a process is one of an open file on the host, so that other VMs and programs of the
host see it. All fids by which a process locks a file share one open file: it never stands in its
own way, as POSIX has it.
"""

import contextlib
import errno
import fcntl
import os
import threading
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from uvm.plan9 import kernel
from uvm.plan9.fids import Fid
from uvm.plan9.kernel import Lock
from uvm.plan9.messages import (
    LOCK_BLOCKED,
    LOCK_EXCLUSIVE,
    LOCK_NONE,
    LOCK_SHARED,
    LOCK_SUCCESS,
    Rgetlock,
    Rlock,
    Tgetlock,
    Tlock,
)

_TYPES: Final = {
    LOCK_SHARED: fcntl.F_RDLCK,
    LOCK_EXCLUSIVE: fcntl.F_WRLCK,
    LOCK_NONE: fcntl.F_UNLCK,
}
_NAMES: Final = {ours: theirs for theirs, ours in _TYPES.items()}

#: Most processes with locks, in one session.
MOST_HOLDERS: Final = 512

_Owner: TypeAlias = tuple[int, int, int, bytes]


@dataclass
class _Holder:
    """An open file that holds a process's locks, for as long as a fid it came by is open."""

    descriptor: int
    fids: set[Fid] = field(default_factory=set)


class LockTable:
    """The locks of a session; safe to use from several threads."""

    def __init__(self) -> None:
        self._holders: dict[_Owner, _Holder] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._holders)

    def set(self, fid: Fid, request: Tlock) -> Rlock:
        """Lock or unlock; a guest that wants to wait asks again.

        Raises:
            OSError: The file is not open in the way that the lock needs.
        """
        lock = Lock(_type(request.type), request.start, request.length)
        with self._lock:
            owner = _owner(fid, request)
            holder = self._holders.get(owner)
            if holder is None:
                if lock.type == fcntl.F_UNLCK:
                    return Rlock(LOCK_SUCCESS)
                if len(self._holders) >= MOST_HOLDERS:
                    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
                holder = _Holder(_reopen(fid))
                self._holders[owner] = holder
            holder.fids.add(fid)
            try:
                kernel.set_lock(holder.descriptor, lock)
            except BlockingIOError:
                return Rlock(LOCK_BLOCKED)
            if lock.type == fcntl.F_UNLCK and not (lock.start or lock.length):
                self._drop(owner)
        return Rlock(LOCK_SUCCESS)

    def find(self, fid: Fid, request: Tgetlock) -> Rgetlock:
        """Say what stands in the way of a lock."""
        wanted = Lock(_type(request.type), request.start, request.length)
        with self._lock:
            holder = self._holders.get(_owner(fid, request))
            descriptor = fid.io() if holder is None else holder.descriptor
            found = kernel.find_lock(descriptor, wanted)
        if found.type == fcntl.F_UNLCK:
            found = wanted._replace(type=fcntl.F_UNLCK)
        process = max(found.process, 0)
        return Rgetlock(_NAMES[found.type], found.start, found.length, process, request.client)

    def forget(self, fid: Fid) -> None:
        """Release locks that came by this fid alone; to be called when it is given up."""
        with self._lock:
            for owner, holder in list(self._holders.items()):
                holder.fids.discard(fid)
                if not holder.fids:
                    self._drop(owner)

    def clear(self) -> None:
        """Release all."""
        with self._lock:
            for owner in list(self._holders):
                self._drop(owner)

    def _drop(self, owner: _Owner) -> None:
        os.close(self._holders.pop(owner).descriptor)


def _owner(fid: Fid, request: Tlock | Tgetlock) -> _Owner:
    status = os.fstat(fid.io())
    return status.st_dev, status.st_ino, request.process, request.client


def _type(number: int) -> int:
    with contextlib.suppress(KeyError):
        return _TYPES[number]
    raise OSError(errno.EINVAL, f"{number} is no type of a lock")


def _reopen(fid: Fid) -> int:
    """Open a file for all the locks of a process, of both kinds where that is possible."""
    path = kernel.of_descriptor(fid.held)
    if not fid.share.read_only:
        # A file system of the host may be read-only, or the file not ours to write.
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    access = fcntl.fcntl(fid.io(), fcntl.F_GETFL) & os.O_ACCMODE
    return os.open(path, access | os.O_CLOEXEC)
