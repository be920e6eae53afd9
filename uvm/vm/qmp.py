"""QEMU's monitor, over a socket that QEMU inherits."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

from uvm.errors import UvmError


class Monitor:
    """A connection to the monitor of one QEMU."""

    def __init__(self) -> None:
        self._client = QMPClient("uvm")
        self._client.logger.disabled = True

    async def connect(self, connected: socket.socket) -> None:
        """Take over one end of a socket pair whose other end QEMU has.

        Raises:
            UvmError: QEMU did not greet.
        """
        try:
            await self._client.connect(connected)
        except QMPError as error:
            raise UvmError(f"QEMU's monitor does not answer: {error}") from error

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command and return its result.

        Raises:
            UvmError: QEMU refused it, or is gone.
        """
        try:
            return await self._client.execute(command, arguments)
        except QMPError as error:
            raise UvmError(f"QEMU refused {command}: {error}") from error
        except (EOFError, ConnectionError) as error:
            raise UvmError(f"QEMU ended during {command}") from error

    @contextlib.contextmanager
    def listener(self, event: str) -> Iterator[EventListener]:
        """Collect events of one name while the context lasts."""
        listener = EventListener(event)
        with self._client.listen(listener):
            yield listener

    async def quit(self) -> None:
        """Tell QEMU to end. That the connection ends with it is expected."""
        with contextlib.suppress(QMPError, EOFError, ConnectionError, asyncio.IncompleteReadError):
            await self._client.execute("quit")

    async def close(self) -> None:
        """Drop the connection."""
        with contextlib.suppress(QMPError, EOFError, ConnectionError, OSError):
            await self._client.disconnect()
