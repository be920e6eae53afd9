"""A boot whose host serves each port by itself, for hosts that are late, absent, or move."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from tests.support.log_stream import LogStream
from uvm.entropy import ENTROPY_PORT, serve_entropy
from uvm.guest import LOG_PORT, Guest
from uvm.listen import BRIDGE_PORT
from uvm.vm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from uvm.vm.machine import Machine

PATIENCE = 200.0


class Boot:
    """One machine; entropy and log are served in the background from the start.

    Args:
        machine: What to boot.
        directory: For its sockets and files.
        entropy: Whether the host gives entropy.
        bridge: Whether to listen for the agent; otherwise somebody else does.
    """

    def __init__(
        self, machine: Machine, directory: Path, *, entropy: bool = True, bridge: bool = True
    ) -> None:
        directory.mkdir()
        self.vm = VirtualMachine(machine, directory)
        self.guest = Guest(self.vm.host)
        self.streams: list[LogStream] = []
        self._entropy = entropy
        self._listens = bridge
        self._connected: socket.socket | None = None
        self._news = asyncio.Condition()
        self._undo = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.guest.close)
            if self._entropy:
                entropy = self.vm.host.listen(ENTROPY_PORT)
                undo.callback(entropy.close)
                self._tasks.append(asyncio.create_task(serve_entropy(entropy)))
            self.listen_for_log()
            if self._listens:
                self._bridge = self.vm.host.listen(BRIDGE_PORT)
                undo.callback(self._bridge.close)
            await self.vm.start()
            undo.push_async_callback(self.vm.stop)
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._undo.aclose()
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            # A task fails when it has read what is no entry.
            if isinstance(outcome, Exception):
                raise outcome

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The log of all connections."""
        return [entry for stream in self.streams for entry in stream.entries]

    def listen_for_log(self) -> None:
        """Listen on the log port for one connection, as a host does."""
        listener = self.vm.host.listen(LOG_PORT)

        async def read() -> None:
            try:
                connected = await listener.accept_once()
            finally:
                listener.close()
            self._connected = connected
            stream = LogStream()
            self.streams.append(stream)
            async with self._news:
                self._news.notify_all()
            try:
                while data := await asyncio.get_running_loop().sock_recv(connected, 65536):
                    stream.feed(data)
                    async with self._news:
                        self._news.notify_all()
            except ConnectionError:
                return  # the VM was cut off
            finally:
                connected.close()

        self._tasks.append(asyncio.create_task(read()))

    async def lose_log(self) -> None:
        """Close the log connection, as a host that the VM is moved away from."""
        self._tasks[-1].cancel()
        await asyncio.gather(self._tasks.pop(), return_exceptions=True)

    async def negotiate(self) -> None:
        """Take the bridge connection and negotiate."""
        async with asyncio.timeout(PATIENCE):
            await self.guest.client.open(await self._bridge.accept())
            await self.guest.client.negotiate()

    async def shell(self, script: str) -> str:
        """Output of a script in the VM, which has to end with status 0."""
        process = await self.guest.execute_in_vm(["/bin/sh", "-c", script])
        done = await process.communicate()
        assert done.exit_code == 0, (script, done.stdout, done.stderr)
        return done.stdout.decode()

    async def kill_agent(self, number: int) -> None:
        """Send the agent a signal, from a process of the VM."""
        command = ["/bin/sh", "-c", f"read line; kill -{number} $PPID"]
        process = await self.guest.execute_in_vm(command, stdin=True)
        process.close()  # the agent has answered; now the shell reads the end of its input

    async def logged(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a log entry."""
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                for entry in self.entries:
                    if matches(entry):
                        return entry
                await self._news.wait()

    async def log_connections(self, count: int) -> None:
        """Wait until so many connections to the log port have been made."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(self.streams) >= count)

    async def ended(self) -> str:
        """Wait for the end of the machine; return what its console said."""
        async with asyncio.timeout(PATIENCE):
            await self.vm.wait()
        return self.vm.console.read_text(errors="replace")
