"""Signals of a command: whoever came last handles them."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

Handler = Callable[[signal.Signals], None]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_handlers: dict[signal.Signals, list[Handler]] = {}


@contextlib.contextmanager
def handle(numbers: tuple[signal.Signals, ...], handler: Handler) -> Iterator[None]:
    """Call a function on signals while the context lasts, instead of what handled them before."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        _handlers.setdefault(number, []).append(handler)
        loop.add_signal_handler(number, _dispatch, number)
    try:
        yield
    finally:
        for number in numbers:
            _handlers[number].remove(handler)
            if not _handlers[number]:
                loop.remove_signal_handler(number)


def run(command: Coroutine[Any, Any, int]) -> int:
    """Run a command to its end, clean-up included, and return its exit status.

    A signal cancels it; its status is 128 + the signal's number then.
    """
    return asyncio.run(_supervise(command))


async def _supervise(command: Coroutine[Any, Any, int]) -> int:
    received: list[signal.Signals] = []
    task = asyncio.create_task(command)

    def cancel(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    with handle(_ENDING, cancel):
        try:
            return await task
        except asyncio.CancelledError:
            return 128 + (received[0] if received else signal.SIGINT)


def _dispatch(number: signal.Signals) -> None:
    _handlers[number][-1](number)
