"""Streams between the person's descriptors and a process in the guest, byte by byte.

The descriptors are shared with other programs, so they stay in blocking mode; each stream has a
thread of its own, and a slow one holds up nothing else.
"""

import asyncio
import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

_CHUNK: Final = 1 << 16
_POLL: Final = 0.05


class InputRelay:
    """Copies a descriptor to a socket, and its end as a half-close.

    Args:
        descriptor: Where to read.
        stream: Where to write.
    """

    def __init__(self, descriptor: int, stream: socket.socket) -> None:
        self._descriptor = descriptor
        self._stream = stream
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._copy, name="stdin", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._stream.setblocking(True)
        self._thread.start()

    def stop(self) -> None:
        """Stop copying; what was not read stays with the descriptor."""
        os.write(self._stop_write, b"x")
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _copy(self) -> None:
        # The process may end, or close its stdin, before it has read everything.
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            while data := self._read():
                self._stream.sendall(data)
            self._stream.shutdown(socket.SHUT_WR)

    def _read(self) -> bytes:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop_read in ready:
                return b""
            try:
                return os.read(self._descriptor, _CHUNK)
            except BlockingIOError:
                continue  # another program that shares it was faster
            except OSError:
                return b""  # a terminal that is gone


class OutputRelay:
    """Copies a socket to a descriptor until the guest closes the stream, then closes it too.

    The guest waits for that: it reports the end of the process afterwards (spec 4.9).

    Args:
        stream: Where to read.
        descriptor: Where to write.
        on_unread: Called in another thread when nobody reads the descriptor any more. What still
            comes is dropped then: an agent would take a closed stream for a host that went away.
    """

    def __init__(
        self, stream: socket.socket, descriptor: int, on_unread: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._on_unread = on_unread
        self._unread = False
        self._idle_since: float | None = time.monotonic()
        self._thread = threading.Thread(target=self._copy, name="output", daemon=True)

    def start(self) -> None:
        """Begin to copy."""
        self._stream.setblocking(True)
        self._thread.start()

    async def drain(self, limit: float) -> None:
        """Wait for the end of the stream.

        Args:
            limit: Give up when the guest has sent nothing for so many seconds. The time that the
                reader of the descriptor takes does not count.
        """
        begin = time.monotonic()
        while self._thread.is_alive():
            idle = self._idle_since
            if idle is not None and time.monotonic() - max(idle, begin) > limit:
                break
            await asyncio.sleep(_POLL if time.monotonic() - begin > _POLL else 0.001)

    def _copy(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self._stream.recv(_CHUNK):
                self._idle_since = None
                self._write(data)
                self._idle_since = time.monotonic()
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def _write(self, data: bytes) -> None:
        if self._unread:
            return
        try:
            _write_all(self._descriptor, data)
        except OSError:
            # Closed at the other end, or for another reason of no use, such as a full disk.
            self._unread = True
            self._on_unread()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
