"""A process in the guest at the person's terminal: streams, signals, window size."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final, Protocol

from gcs.protocol.errors import RemoteError
from uvm.cli import signals, terminal
from uvm.cli.relay import InputRelay, OutputRelay
from uvm.errors import UvmError
from uvm.process import COPY_AFTER_EXIT
from uvm.stdio import StdioSockets

_PIPE_GRACE: Final = 0.5
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class AttachedProcess(Protocol):
    """What can be attached: a process of this VM, or of one that a keeper holds."""

    stdio: StdioSockets

    async def wait(self) -> int:
        """Wait for the end and return the exit code."""
        ...

    async def signal(self, number: int) -> bool:
        """Send a signal; returns whether the process was still there."""
        ...

    async def resize(self, height: int, width: int) -> None:
        """Tell its terminal the size."""
        ...


async def attach(process: AttachedProcess, *, tty: bool) -> int:
    """Relay streams and signals until a process ends; returns its exit code.

    Args:
        process: The process; its streams are closed at the end.
        tty: Whether it has a terminal: the person's is put into raw mode then.
    """
    unread = asyncio.Event()
    loop = asyncio.get_running_loop()
    outputs = [
        OutputRelay(stream, descriptor, lambda: _notify(loop, unread))
        for stream, descriptor in ((process.stdio.stdout, 1), (process.stdio.stderr, 2))
        if stream is not None
    ]
    with contextlib.ExitStack() as undo:
        undo.callback(process.stdio.close)
        if tty and os.isatty(0):
            undo.enter_context(terminal.raw_mode(0))
        undo.enter_context(_forward_signals(process))
        if tty:
            undo.enter_context(_follow_window_size(process))
        for output in outputs:
            output.start()
        if process.stdio.stdin is not None:
            keyboard = InputRelay(0, process.stdio.stdin)
            keyboard.start()
            undo.callback(keyboard.stop)
        end = asyncio.create_task(_end_when_unread(process, unread))
        undo.callback(end.cancel)
        exit_code = await process.wait()
        await asyncio.gather(*(output.drain(COPY_AFTER_EXIT) for output in outputs))
    if unread.is_set() and exit_code == 128 + signal.SIGKILL:
        return 128 + signal.SIGPIPE
    return exit_code


def _notify(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    # A loop that is closed already waits for nothing.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(event.set)


async def _end_when_unread(process: AttachedProcess, unread: asyncio.Event) -> None:
    """End a process whose output nobody reads, as a pipeline does."""
    await unread.wait()
    try:
        await process.signal(signal.SIGPIPE)
        # The init of a container is deaf to it unless it has a handler.
        await asyncio.sleep(_PIPE_GRACE)
        await process.signal(signal.SIGKILL)
    except (RemoteError, UvmError):
        # It can't be signalled: without its streams it ends by itself.
        for stream in process.stdio:
            if stream is not None:
                stream.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _forward_signals(process: AttachedProcess) -> Iterator[None]:
    """Pass signals on. The second one kills the process, the third one gives up on it."""
    received: list[signal.Signals] = []
    tasks: set[asyncio.Task[None]] = set()
    attached = asyncio.current_task()

    async def deliver(number: int) -> None:
        try:
            await process.signal(number)
        except (RemoteError, UvmError) as error:
            sys.stderr.write(f"uvm: the signal was not delivered: {error}\n")

    def handle(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 2 and attached is not None:
            attached.cancel()
            return
        task = asyncio.create_task(deliver(number if len(received) == 1 else signal.SIGKILL))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with signals.handle(_FORWARDED, handle):
        yield


@contextlib.contextmanager
def _follow_window_size(process: AttachedProcess) -> Iterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    async def resize() -> None:
        # The process may be gone, and its window with it.
        with contextlib.suppress(RemoteError, UvmError):
            await process.resize(*terminal.size())

    def handle(_: signal.Signals) -> None:
        task = asyncio.create_task(resize())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with signals.handle((signal.SIGWINCH,), handle):
        # A process in the VM itself is not told a size when it starts.
        handle(signal.SIGWINCH)
        yield
