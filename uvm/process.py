"""A process in the guest, with its streams."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Final

from gcs.protocol.errors import RemoteError
from gcs.protocol.hresult import HResult
from uvm.bridge.client import GuestClient
from uvm.stdio import StdioSockets

#: A real host drops what comes later than this after the exit, in seconds (spec 1.11).
COPY_AFTER_EXIT: Final = 1.0
_CHUNK: Final = 1 << 18


@dataclass
class Completed:
    """A process that ended, and what it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Process:
    """A running process.

    Args:
        client: The agent.
        container_id: Its container, or the id of the VM.
        pid: Its id in the VM.
        stdio: Connected streams; they belong to the process object now.
    """

    def __init__(
        self, client: GuestClient, container_id: str, pid: int, stdio: StdioSockets
    ) -> None:
        self._client = client
        self.container_id = container_id
        self.pid = pid
        self.stdio = stdio

    async def wait(self) -> int:
        """Wait for the end and return the exit code, 128 + the signal for a killed one."""
        return await self._client.wait_for_process(self.container_id, self.pid)

    async def signal(self, number: int) -> bool:
        """Send a signal; returns whether the process was still there to get it."""
        try:
            await self._client.signal_process(self.container_id, self.pid, number)
        except RemoteError as error:
            if error.hresult == HResult.NOT_FOUND:
                return False
            raise
        return True

    async def resize(self, height: int, width: int) -> None:
        """Tell its terminal the size, in character cells."""
        await self._client.resize_console(self.container_id, self.pid, height, width)

    def close(self) -> None:
        """Close the streams."""
        self.stdio.close()

    async def communicate(self, data: bytes = b"") -> Completed:
        """Feed stdin, close it, collect the output and the exit code; closes the streams."""
        feed = asyncio.create_task(_feed(self.stdio.stdin, data))
        collect = [
            asyncio.create_task(_collect(stream))
            for stream in (self.stdio.stdout, self.stdio.stderr)
        ]
        try:
            exit_code = await self.wait()
            await asyncio.gather(*collect)
            return Completed(exit_code, collect[0].result(), collect[1].result())
        finally:
            for task in (feed, *collect):
                task.cancel()
            await asyncio.gather(feed, *collect, return_exceptions=True)
            self.close()


async def _feed(stream: socket.socket | None, data: bytes) -> None:
    if stream is None:
        return
    # A process that reads no further than it needs is no error.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await asyncio.get_running_loop().sock_sendall(stream, data)
        stream.shutdown(socket.SHUT_WR)


async def _collect(stream: socket.socket | None) -> bytes:
    if stream is None:
        return b""
    output = bytearray()
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(stream, _CHUNK):
        output += chunk
    # The guest waits for this end of the stream before it reports that of the process.
    stream.close()
    return bytes(output)
