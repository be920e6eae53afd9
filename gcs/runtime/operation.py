"""The files of one call of a container runtime: log, pid, console socket, output.

A log of its own for every call, so that no call reports an older one's error.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, Self

import msgspec

from gcs.protocol.decode import looked_at
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    import socket

    from gcs.linux.pidfd import ExitStatus

logger = logging.getLogger(__name__)

_numbers = itertools.count(1)
_ERROR_LEVELS = frozenset(("error", "fatal", "panic"))
# A message goes to the host in a frame of 64 KiB, twice.
_LONGEST_FAILURE = 8 * 1024


class _LogEntry(msgspec.Struct):
    level: str = ""
    msg: str = ""


class Operation:
    """A directory for one call; a context manager, at the end of which the directory is gone.

    Attributes:
        log: Path for the runtime's log.
        pid_file: Path for the pid of the process that the call makes.

    Raises OSError on entry when the directory can't be made.
    """

    __slots__ = ("_console", "_directory", "_output", "_parent", "log", "pid_file")

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._directory = ""
        self.log = ""
        self.pid_file = ""
        self._console: socket.socket | None = None
        self._output = -1

    def __enter__(self) -> Self:
        while not self._directory:
            # Short, since the path of a socket has at most 107 bytes and a container id may be
            # long.  There may be files of an agent that died and had the same pid.
            path = f"{self._parent}/{os.getpid()}-{next(_numbers)}"
            with contextlib.suppress(FileExistsError):
                _make_directory(path)
                self._directory = path
        self.log = f"{self._directory}/log"
        self.pid_file = f"{self._directory}/pid"
        return self

    def __exit__(self, *_: object) -> None:
        if self._console is not None:
            self._console.close()
        if self._output >= 0:
            os.close(self._output)
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    os.unlink(entry.path)
            os.rmdir(self._directory)
        except OSError as error:
            # A runtime that was just killed may still have made a file.
            logger.warning("files of the container runtime are left: %s", error)

    def write(self, name: str, content: bytes) -> str:
        """Write a file and return its path."""
        path = f"{self._directory}/{name}"
        with open(path, "xb") as file:
            file.write(content)
        return path

    def create_output(self) -> int:
        """Return a descriptor of this object for what the runtime writes."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._output = os.open(f"{self._directory}/output", flags, 0o600)
        return self._output

    def read_output(self) -> bytes:
        """Return what the runtime wrote; empty when create_output() was not called."""
        if self._output < 0:
            return b""
        return os.pread(self._output, os.fstat(self._output).st_size, 0)

    def read_pid(self) -> int:
        """Return the pid that the runtime wrote down.

        Raises:
            GcsError: It wrote none.
        """
        try:
            with open(self.pid_file, encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError) as error:
            raise GcsError(f"the container runtime wrote no process id: {error}") from error

    def listen_for_console(self) -> str:
        """Return the path of a socket that accepts the master of a terminal."""
        import socket

        path = f"{self._directory}/console"
        self._console = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._console.bind(path)
        self._console.listen(1)
        return path

    def receive_console(self) -> int:
        """Return the master, owned by the caller; to be called when the runtime is done.

        Raises:
            GcsError: The runtime sent none.
        """
        import socket

        try:
            if self._console is None:
                raise FileNotFoundError("no console socket")
            connection, _ = self._console.accept()
            with connection:
                connection.setblocking(False)
                space = socket.CMSG_SPACE(4)
                flags = socket.MSG_CMSG_CLOEXEC
                _, messages, _, _ = connection.recvmsg(4096, space, flags)
        except OSError as error:
            raise GcsError(f"the container runtime sent no terminal: {error}") from error
        for level, kind, data in messages:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                return int.from_bytes(data[:4], sys.byteorder)
        raise GcsError("the container runtime sent no terminal on its console socket")

    def failure(self, status: ExitStatus) -> str:
        """Return why the runtime failed: the last error it logged, or what it wrote."""
        text = self._last_logged_error() or self.read_output().decode("utf-8", "replace").strip()
        if not text and status.signal:
            text = f"killed by signal {status.signal}"
        return (text or f"exit status {status.code}, no message")[:_LONGEST_FAILURE]

    def _last_logged_error(self) -> str:
        try:
            with open(self.log, "rb") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ""
        for line in reversed(lines):
            try:
                entry = msgspec.json.decode(line, type=looked_at(_LogEntry))
            except msgspec.DecodeError:
                continue
            if entry.level in _ERROR_LEVELS and entry.msg:
                return entry.msg
        return ""


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
