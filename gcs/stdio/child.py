"""The descriptors a process is started with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from gcs.stdio.sockets import StdioSockets


class ChildDescriptors:
    """Owner of the three descriptors that become 0, 1 and 2 of a process.

    All are close-on-exec, blocking and different from each other, and stay open here until
    close(): spawn with `dup2` to 0, 1 and 2, then close, or the streams never end.
    """

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr

    @classmethod
    def of_sockets(cls, sockets: StdioSockets) -> ChildDescriptors:
        """Duplicates of the sockets themselves; /dev/null where a stream is not wanted.

        Being non-blocking is a property the duplicates share with their originals, so both become
        blocking: close the originals when the process is started, and use them for nothing else.

        Raises OSError (EMFILE); then nothing stays open.
        """
        opened: list[int] = []
        try:
            opened.append(_duplicate(sockets.stdin, os.O_RDONLY))
            opened.append(_duplicate(sockets.stdout, os.O_WRONLY))
            opened.append(_duplicate(sockets.stderr, os.O_WRONLY))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return cls(*opened)

    def close(self) -> None:
        """Close the agent's copies; may be called again."""
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdin = self.stdout = self.stderr = -1


def _duplicate(connection: socket.socket | None, null_flags: int) -> int:
    if connection is None:
        return open_null(null_flags)
    connection.setblocking(True)
    return os.dup(connection.fileno())


def open_null(flags: int) -> int:
    """Open /dev/null, close-on-exec; flags: O_RDONLY or O_WRONLY."""
    return os.open(os.devnull, flags | os.O_CLOEXEC)
