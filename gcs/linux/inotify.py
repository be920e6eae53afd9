"""Changes of files, told by the kernel (inotify(7))."""

from __future__ import annotations

import os
import struct

from gcs.linux.libc import call, naming

IN_MODIFY = 0x2
IN_IGNORED = 0x8000
"""The watch ended: the file or its file system is gone, or the watch was removed."""
IN_Q_OVERFLOW = 0x4000
"""Events were lost; the watch of such an event is -1."""

_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_BUFFER_BYTES = 16 * 1024


def open_inotify() -> int:
    """A non-blocking, close-on-exec descriptor that becomes readable when a watched file changes.

    Raises OSError EMFILE when there are too many (fs.inotify.max_user_instances).
    """
    try:
        return call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise naming(error, "inotify_init1", "inotify") from None


def add_watch(descriptor: int, path: str, mask: int) -> int:
    """Watch `path` for the events in `mask`; the number that its events will carry.

    Raises OSError naming `path`: FileNotFoundError when there is none, ENOSPC when there are too
    many watches (fs.inotify.max_user_watches).
    """
    try:
        return call("inotify_add_watch", descriptor, os.fsencode(path), mask)
    except OSError as error:
        raise naming(error, "inotify_add_watch", path) from None


def remove_watch(descriptor: int, watch: int) -> None:
    """End a watch; no error when it ended by itself because the file is gone."""
    from errno import EINVAL

    try:
        call("inotify_rm_watch", descriptor, watch)
    except OSError as error:
        if error.errno != EINVAL:
            raise naming(error, "inotify_rm_watch", f"watch {watch}") from None


def read_events(descriptor: int) -> list[tuple[int, int]]:
    """All events that wait, as pairs of watch and mask; names in directories are left out."""
    events: list[tuple[int, int]] = []
    while True:
        try:
            data = os.read(descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return events
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            events.append((watch, mask))
            offset += _EVENT.size + length
