"""Streams of a process in the guest: ports to offer, connections to accept (spec 1.11)."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from gcs.protocol.requests import VsockStdioRelaySettings
from uvm.errors import UvmError
from uvm.listen import HostPorts, PortListener

#: A real host allocates from here upwards.
FIRST_STDIO_PORT: Final = 0x4000_0001
#: The guest dials before it answers, so what is missing after the answer is not on its way.
_LATE_CONNECTION_SECONDS: Final = 10.0

STREAMS: Final = ("stdin", "stdout", "stderr")


@dataclass
class StdioSockets:
    """Connected streams; a stream that was not asked for is ``None``."""

    stdin: socket.socket | None = None
    stdout: socket.socket | None = None
    stderr: socket.socket | None = None

    def __iter__(self) -> Iterator[socket.socket | None]:
        return iter((self.stdin, self.stdout, self.stderr))

    def close(self) -> None:
        """Close all of them."""
        for stream in self:
            if stream is not None:
                stream.close()


class PortAllocator:
    """Numbers for stdio ports, unique in a VM's life."""

    def __init__(self, first: int = FIRST_STDIO_PORT) -> None:
        self._numbers = itertools.count(first)

    def take(self) -> int:
        """Return the next number."""
        return next(self._numbers)


class StdioListeners:
    """Listeners for the streams of one process. Use as an async context manager.

    Args:
        host: Where to listen.
        ports: Source of port numbers.
        stdin: Whether to offer this stream; likewise the next two.
    """

    def __init__(
        self,
        host: HostPorts,
        ports: PortAllocator,
        *,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
    ) -> None:
        self._listeners: dict[str, PortListener] = {}
        self._accepting: dict[str, asyncio.Task[socket.socket]] = {}
        with contextlib.ExitStack() as undo:
            for name, wanted in zip(STREAMS, (stdin, stdout, stderr), strict=True):
                if wanted:
                    listener = host.listen(ports.take())
                    undo.callback(listener.close)
                    self._listeners[name] = listener
            undo.pop_all()

    @property
    def settings(self) -> VsockStdioRelaySettings:
        """The ports, as an execute request names them."""
        numbers = {name: listener.port for name, listener in self._listeners.items()}
        return VsockStdioRelaySettings(
            std_in=numbers.get("stdin", 0),
            std_out=numbers.get("stdout", 0),
            std_err=numbers.get("stderr", 0),
        )

    async def __aenter__(self) -> Self:
        for name, listener in self._listeners.items():
            self._accepting[name] = asyncio.create_task(listener.accept_once())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._accepting.values())
        self._accepting.clear()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, socket.socket):
                result.close()
        for listener in self._listeners.values():
            listener.close()

    async def accept(self) -> StdioSockets:
        """Return the connections; to be called when the guest has answered the request.

        Raises:
            UvmError: The guest did not connect a stream that it was asked for.
        """
        if self._accepting:
            await asyncio.wait(self._accepting.values(), timeout=_LATE_CONNECTION_SECONDS)
        missing = [name for name, task in self._accepting.items() if not task.done()]
        if missing:
            raise UvmError(f"the agent started the process without its {' and '.join(missing)}")
        sockets = StdioSockets(**{name: task.result() for name, task in self._accepting.items()})
        self._accepting.clear()
        return sockets
