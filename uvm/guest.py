"""The guest of one VM: how it connects at boot, and how processes are started in it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO, Final

from gcs.protocol.message import UVM_ID
from gcs.protocol.requests import ProcessParameters
from uvm.bridge.client import GuestClient
from uvm.bridge.connection import RPC_TIMEOUT
from uvm.entropy import ENTROPY_PORT, serve_entropy
from uvm.listen import BRIDGE_PORT, HostPorts, PortListener
from uvm.logs import LogDecoder, LogEntry, open_raw_log
from uvm.plan9.server import ShareServer
from uvm.process import Process
from uvm.recovery import RecoverableProcess
from uvm.spec import DEFAULT_PATH
from uvm.stdio import PortAllocator, StdioListeners
from uvm.timings import Timings

LOG_PORT: Final = 109

_LOG_CHUNK: Final = 65536


class Guest:
    """An agent that connects, or has connected, to the ports of the host.

    Args:
        host: Where the guest's connections arrive.
        on_log: Called with each entry of the agent's log.
        timings: Where to record the phases of the boot.
        answer_limit: Longest time to wait for an answer, in seconds.
    """

    def __init__(
        self,
        host: HostPorts,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        timings: Timings | None = None,
        answer_limit: float = RPC_TIMEOUT,
    ) -> None:
        self.host = host
        self.ports = PortAllocator()
        self.shares = ShareServer(host)
        self.client = GuestClient(answer_limit=answer_limit)
        self.log_decoder = LogDecoder()
        self._on_log = on_log
        self._timings = timings or Timings()
        self._log_task: asyncio.Task[None] | None = None
        self._listeners: list[PortListener] = []
        self._recoverable: set[RecoverableProcess] = set()

    def listen(self) -> None:
        """Open the ports a guest dials at boot; to be called before the VM starts.

        Raises:
            ListenError: One of them is taken.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_listeners)
            for port in (ENTROPY_PORT, LOG_PORT, BRIDGE_PORT):
                self._listeners.append(self.host.listen(port))
            undo.pop_all()

    async def accept(self) -> None:
        """Take the guest's connections in a real host's order, and negotiate (spec 2.1).

        The bridge is accepted only when the entropy was fetched and the log is connected.
        """
        entropy, log, bridge = self._listeners
        entropy_task = asyncio.create_task(self._serve_entropy(entropy))
        log_task = asyncio.create_task(self._accept_log(log))
        try:
            await asyncio.gather(entropy_task, log_task)
        finally:
            await _cancel(entropy_task, log_task)
        connected = await bridge.accept_once()
        self._timings.mark("bridge connected")
        await self.client.open(connected)
        await self.client.negotiate()
        self._timings.mark("negotiated")
        self._listeners.clear()

    async def reconnect(self, *, rollback: bool = False) -> None:
        """Lose the bridge and the streams of recoverable processes on purpose, and come back.

        What a host does that a VM has been moved to (spec 1.10, 2.9), in its order: listen,
        negotiate, register containers, listen on the ports of streams, adopt the waits, probe. The
        connections of the log and of other processes stay, since no agent makes those again.

        Args:
            rollback: Come back as the host that was there before; see :meth:`GuestClient.resume`.

        Raises:
            BridgeClosedError: The connection was lost already, or is again.
            ListenError: A port is taken.
        """
        listener = self.host.listen(BRIDGE_PORT)
        try:
            await self.client.suspend()
            await self._lose_streams()
            connected = await listener.accept_once()
            await self.client.resume(connected, rollback=rollback, listen=self._listen_again)
        finally:
            listener.close()

    async def start_recoverable(
        self, container_id: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> RecoverableProcess:
        """Start a container's init with streams that :meth:`reconnect` brings back.

        Raises:
            RemoteError: The agent refused.
        """
        parameters = ProcessParameters(
            create_std_in_pipe=stdin, create_std_out_pipe=stdout, create_std_err_pipe=stderr
        )
        async with StdioListeners(
            self.host, self.ports, stdin=stdin, stdout=stdout, stderr=stderr
        ) as listeners:
            ports = listeners.settings
            pid = await self.client.execute_process(container_id, parameters, ports)
            sockets = await listeners.accept()
        process = RecoverableProcess(self.client, container_id, pid, sockets, ports)
        self._recoverable.add(process)
        return process

    def _listen_again(self) -> None:
        for process in self._recoverable:
            process.listen_again(self.host)

    async def _lose_streams(self) -> None:
        self._recoverable = {process for process in self._recoverable if not process.finished}
        await asyncio.gather(*(process.lose_streams() for process in self._recoverable))

    async def close(self) -> None:
        """Drop all connections."""
        self._close_listeners()
        await self._lose_streams()
        await self.client.close()
        await self.shares.close()
        if self._log_task is not None:
            await _cancel(self._log_task)
            self._log_task = None

    async def drain_log(self, seconds: float) -> None:
        """Wait for the end of the log stream, which comes with the end of the VM."""
        if self._log_task is not None:
            await asyncio.wait({self._log_task}, timeout=seconds)

    async def execute(
        self,
        container_id: str,
        parameters: ProcessParameters,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Process:
        """Start a process with the streams asked for.

        Raises:
            RemoteError: The agent refused.
        """
        parameters.create_std_in_pipe = stdin
        parameters.create_std_out_pipe = stdout
        parameters.create_std_err_pipe = stderr
        async with StdioListeners(
            self.host, self.ports, stdin=stdin, stdout=stdout, stderr=stderr
        ) as listeners:
            pid = await self.client.execute_process(container_id, parameters, listeners.settings)
            sockets = await listeners.accept()
        return Process(self.client, container_id, pid, sockets)

    async def execute_in_vm(
        self,
        arguments: list[str],
        *,
        environment: dict[str, str] | None = None,
        working_directory: str = "/",
        console: bool = False,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
    ) -> Process:
        """Start a process in the VM itself, outside all containers (spec 2.6, UVM exec)."""
        parameters = ProcessParameters(
            command_args=arguments,
            working_directory=working_directory,
            environment={"PATH": DEFAULT_PATH} | (environment or {}),
            emulate_console=console,
        )
        return await self.execute(
            UVM_ID, parameters, stdin=stdin, stdout=stdout, stderr=stderr and not console
        )

    async def _serve_entropy(self, listener: PortListener) -> None:
        await serve_entropy(listener)
        self._timings.mark("entropy served")

    async def _accept_log(self, listener: PortListener) -> None:
        connected = await listener.accept_once()
        self._timings.mark("log connected")
        reader, writer = await asyncio.open_connection(sock=connected)

        raw = open_raw_log()

        async def read() -> None:
            try:
                async for entry in _entries(reader, self.log_decoder, raw):
                    if self._on_log is not None:
                        self._on_log(entry)
            finally:
                writer.close()
                if raw is not None:
                    raw.close()

        self._log_task = asyncio.create_task(read())

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


async def _entries(
    reader: asyncio.StreamReader, decoder: LogDecoder, raw: BinaryIO | None
) -> AsyncIterator[LogEntry]:
    while True:
        try:
            chunk = await reader.read(_LOG_CHUNK)
        except ConnectionError:
            chunk = b""
        if raw is not None:
            raw.write(chunk)
        for entry in decoder.feed(chunk) if chunk else decoder.finish():
            yield entry
        if not chunk:
            return


async def _cancel(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
