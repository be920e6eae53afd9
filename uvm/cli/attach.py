"""A process in the guest at the person's terminal: streams, signals, window size."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final, Protocol

from gcs.protocol.errors import RemoteError
from uvm.cli import signals, terminal
from uvm.cli.relay import InputRelay, OutputRelay
from uvm.errors import UvmError
from uvm.process import COPY_AFTER_EXIT
from uvm.stdio import StdioSockets

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
    outputs = [
        OutputRelay(stream, descriptor)
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
        exit_code = await process.wait()
        await asyncio.gather(*(output.drain(COPY_AFTER_EXIT) for output in outputs))
    return exit_code


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
