"""QEMU's monitor, over a socket that QEMU inherits."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from uvm.errors import UvmError


class RefusedError(UvmError):
    """QEMU refused a command.

    Attributes:
        kind: QEMU's class of the error; most are ``GenericError``.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


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
            RefusedError: QEMU refused it.
            UvmError: QEMU is gone.
        """
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as error:
            message = f"QEMU refused {command}: {error}"
            raise RefusedError(message, error.error_class) from error
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
