"""A kept VM, as commands see it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from gcs.protocol.errors import RemoteError
from uvm.errors import UvmError, VmNotFoundError
from uvm.keeper.channel import Channel, ChannelClosedError, connect
from uvm.keeper.messages import (
    Answer,
    Done,
    Execute,
    Exited,
    Failed,
    Kill,
    List,
    Listing,
    Logs,
    Measure,
    OutOfMemory,
    Request,
    Resize,
    Run,
    SetState,
    Signal,
    Stacks,
    Started,
    Statistics,
    Stop,
    Text,
)
from uvm.paths import runtime_directory
from uvm.stdio import StdioSockets
from uvm.vm.directory import running, wait_released

CONTROL_SOCKET: Final = "control"

A = TypeVar("A")


def kept_vms() -> list[str]:
    """Return the names of the VMs that keepers hold."""
    return [path.name for path in running() if (path / CONTROL_SOCKET).exists()]


def the_vm(name: str | None) -> str:
    """Return the name given, or the name of the only VM there is.

    Raises:
        VmNotFoundError: None is running, or several are and none was named.
    """
    if name is not None:
        return name
    names = kept_vms()
    if len(names) == 1:
        return names[0]
    if not names:
        raise VmNotFoundError("no VM is running; `uvm boot` starts one")
    raise VmNotFoundError(f"several VMs are running, name one of them: {', '.join(names)}")


class RemoteProcess:
    """A process that a keeper started for this command.

    Attributes:
        container_id: Its container, or the id of the VM.
        pid: Its id in the VM.
        stdio: Its streams, connected to the guest directly.
    """

    def __init__(self, channel: Channel[Answer], started: Started, stdio: StdioSockets) -> None:
        self._channel = channel
        self.container_id = started.container_id
        self.pid = started.pid
        self.stdio = stdio

    async def wait(self) -> int:
        """Wait for the end and return the exit code."""
        while True:
            answer, _ = await self._channel.receive()
            if isinstance(answer, Exited):
                return answer.exit_code
            _raise_failure(answer)

    async def signal(self, number: int) -> bool:
        """Send a signal."""
        await self._channel.send(Signal(number))
        return True

    async def resize(self, height: int, width: int) -> None:
        """Tell its terminal the size, in character cells."""
        await self._channel.send(Resize(height, width))

    async def finished(self) -> int:
        """Wait until the keeper has cleaned up behind it.

        Returns:
            How many processes of its container the kernel had killed for want of memory.
        """
        kills = 0
        with contextlib.suppress(ChannelClosedError):
            while True:
                answer, _ = await self._channel.receive()
                if isinstance(answer, OutOfMemory):
                    kills = answer.kills
                _raise_failure(answer)
        return kills

    def close(self) -> None:
        """Give the process up."""
        self.stdio.close()
        self._channel.close()


class KeptVm:
    """A VM that a keeper holds.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    async def start(self, request: Run | Execute) -> RemoteProcess:
        """Start a container, or a process.

        Raises:
            RemoteError: The agent refused.
            UvmError: The keeper could not.
        """
        channel = self._connect()
        with contextlib.ExitStack() as undo:
            undo.callback(channel.close)
            await channel.send(request)
            answer, descriptors = await channel.receive()
            streams = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            started = _expect(answer, Started)
            undo.pop_all()
        stdio = StdioSockets(**dict(zip(started.streams, streams, strict=True)))
        return RemoteProcess(channel, started, stdio)

    async def list(self) -> Listing:
        """Return what runs."""
        return await self._ask(List(), Listing)

    async def kill(self, target: str, number: int) -> None:
        """Send a signal to a container's init, or to a process."""
        await self._ask(Kill(target, number), Done)

    async def set_state(self, container: str | None, *, paused: bool) -> None:
        """Pause or resume a container, or all of them."""
        await self._ask(SetState(container, paused), Done)

    async def statistics(self, container: str | None) -> dict[str, dict[str, Any]]:
        """Return the metrics of a container, or of all of them, by their ids."""
        found = {}
        with contextlib.closing(self._connect()) as channel:
            await channel.send(Measure(container))
            while not isinstance(answer := (await channel.receive())[0], Done):
                measured = _expect(answer, Statistics)
                found[measured.container_id] = measured.metrics
        return found

    async def stacks(self) -> str:
        """Return the agent's stacks."""
        return (await self._ask(Stacks(), Text)).text

    async def logs(self, *, follow: bool) -> AsyncIterator[str]:
        """Yield pieces of the agent's log, JSON objects in lines."""
        with contextlib.closing(self._connect()) as channel:
            await channel.send(Logs(follow))
            while True:
                try:
                    answer, _ = await channel.receive()
                except ChannelClosedError:
                    return
                if isinstance(answer, Done):
                    return
                yield _expect(answer, Text).text

    async def stop(self, *, force: bool) -> None:
        """End the VM; returns when nothing of it is left."""
        with contextlib.closing(self._connect()) as channel:
            await channel.send(Stop(force))
            answer, _ = await channel.receive()
            _expect(answer, Done)
        # The keeper goes last, after it has removed everything.
        await asyncio.to_thread(wait_released, runtime_directory() / self.name)

    async def _ask(self, request: Request, answer: type[A]) -> A:
        with contextlib.closing(self._connect()) as channel:
            await channel.send(request)
            return _expect((await channel.receive())[0], answer)

    def _connect(self) -> Channel[Answer]:
        return connect(runtime_directory() / self.name / CONTROL_SOCKET, self.name)


def _raise_failure(answer: Answer) -> None:
    if isinstance(answer, Failed):
        if answer.hresult is not None:
            raise RemoteError(answer.message, hresult=answer.hresult)
        raise UvmError(answer.message)


def _expect(answer: Answer, kind: type[A]) -> A:
    _raise_failure(answer)
    if not isinstance(answer, kind):
        raise UvmError(f"the keeper answered {type(answer).__name__}, not {kind.__name__}")
    return answer
