"""What a guest's numbers of files (fids) stand for, and when their descriptors are closed.

Requests are carried out in several threads. A fid may be given up by one while another still uses
it: its descriptors are closed by whoever is the last one, for a number closed too early could
already be another file's.
"""

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from typing import Final

from uvm.plan9.messages import NO_USER
from uvm.plan9.share import Share

#: Descriptors that the rest of the program keeps for itself.
_RESERVED: Final = 192
#: Descriptors of a fid that is open and holds locks.
_DESCRIPTORS: Final = 3


class Budget:
    """How many fids all sessions together may have, so that descriptors are left for the others.

    Args:
        most: The number.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._lock = threading.Lock()

    @classmethod
    def of_this_process(cls) -> "Budget":
        """Return what the limit of this process allows, which is raised as far as it can be."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return cls(max(hard - _RESERVED, _DESCRIPTORS) // _DESCRIPTORS)

    def take(self) -> bool:
        """Take one; returns whether there was one."""
        with self._lock:
            if self._left == 0:
                return False
            self._left -= 1
            return True

    def give_back(self, count: int = 1) -> None:
        """Give some back."""
        with self._lock:
            self._left += count


class Attribute:
    """An extended attribute that is read or written in pieces.

    Attributes:
        name: Its name; empty: the list of all names.
        value: What it is, or will be.
        flags: When it is written: those of setxattr(2), else ``None``.
        written: Number of bytes that have come.
    """

    def __init__(self, name: bytes, value: bytearray, flags: int | None = None) -> None:
        self.name = name
        self.value = value
        self.flags = flags
        self.written = 0


class Fid:
    """A file of a share.

    Args:
        share: The share.
        held: Its descriptor, of O_PATH; this object closes it.
        user: Who has attached it: owner of new files.

    Attributes:
        opened: Descriptor for input and output, once it is open.
        attribute: With one, it stands for that and no longer for the file's content.
        lock: Held by what changes the fid itself.
    """

    def __init__(self, share: Share, held: int, user: int = NO_USER) -> None:
        share.hold()
        self.share = share
        self.held = held
        self.user = user
        self.opened: int | None = None
        self.attribute: Attribute | None = None
        self.lock = threading.Lock()
        # Of the table.
        self.users = 0
        self.given_up = False

    def io(self) -> int:
        """Return the descriptor for input and output.

        Raises:
            OSError: It is not open.
        """
        if self.opened is None:
            raise OSError(errno.EBADF, "the file is not open")
        return self.opened

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.held)
        if self.opened is not None:
            os.close(self.opened)
        self.share.release()


class FidTable:
    """The fids of a session; safe to use from several threads.

    Args:
        budget: How many there may be.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._fids: dict[int, Fid] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._fids)

    @contextlib.contextmanager
    def use(self, number: int) -> Iterator[Fid]:
        """Yield a fid, which is not closed meanwhile.

        Raises:
            OSError: EBADF, there is none.
        """
        with self._lock:
            fid = self._fids.get(number)
            if fid is None:
                raise OSError(errno.EBADF, f"no fid {number}")
            fid.users += 1
        try:
            yield fid
        finally:
            self._release(fid)

    def add(self, number: int, fid: Fid) -> None:
        """Add a fid, which is closed when that fails.

        Raises:
            OSError: EBADF where the number is taken; EMFILE for too many.
        """
        with self._lock:
            problem = None
            if self._closed or number in self._fids:
                problem = OSError(errno.EBADF, f"fid {number} is taken")
            elif not self._budget.take():
                problem = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            else:
                self._fids[number] = fid
        if problem is not None:
            fid.close()
            raise problem

    def replace(self, number: int, old: Fid, new: Fid) -> None:
        """Let a number stand for another file; the new fid is closed when that fails.

        Raises:
            OSError: EBADF, the number does not stand for the old one any more.
        """
        with self._lock:
            current = self._fids.get(number) is old
            if current:
                self._fids[number] = new
                old.given_up = True
        if not current:
            new.close()
            raise OSError(errno.EBADF, f"no fid {number}")
        # Whoever replaces it uses it: it is closed when they are done.

    @contextlib.contextmanager
    def remove(self, number: int) -> Iterator[Fid]:
        """Give a number up, and yield what it stood for.

        Raises:
            OSError: EBADF, there is none.
        """
        with self._lock:
            fid = self._fids.pop(number, None)
            if fid is None:
                raise OSError(errno.EBADF, f"no fid {number}")
            fid.given_up = True
            fid.users += 1
        self._budget.give_back()
        try:
            yield fid
        finally:
            self._release(fid)

    def clear(self, *, for_good: bool = False) -> None:
        """Give everything up.

        Args:
            for_good: Take nothing new either: the session has ended.
        """
        with self._lock:
            self._closed = self._closed or for_good
            fids, self._fids = list(self._fids.values()), {}
            idle = [fid for fid in fids if not fid.users]
            for fid in fids:
                fid.given_up = True
        self._budget.give_back(len(fids))
        for fid in idle:
            fid.close()

    def _release(self, fid: Fid) -> None:
        with self._lock:
            fid.users -= 1
            last = fid.given_up and not fid.users
        if last:
            fid.close()
