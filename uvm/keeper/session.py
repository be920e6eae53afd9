"""One process of a kept VM and the command that started it."""

import asyncio
import contextlib

from gcs.protocol.errors import GcsError
from uvm.errors import UvmError
from uvm.keeper.channel import Channel, ChannelClosedError
from uvm.keeper.messages import Exited, Request, Resize, Signal, Started
from uvm.process import Process
from uvm.stdio import STREAMS


async def run_session(
    channel: Channel[Request], process: Process, *, on_loss: int, detached: bool = False
) -> None:
    """Hand the streams of a process over, pass signals on, report its end.

    Args:
        channel: The command that asked for it.
        process: The process; its streams are closed on this side.
        on_loss: Signal for the process when the command goes away before it ends.
        detached: The command wants to know no more than that it runs.
    """
    streams = {
        name: stream
        for name, stream in zip(STREAMS, process.stdio, strict=True)
        if stream is not None
    }
    started = Started(process.container_id, process.pid, list(streams))
    with contextlib.closing(process):
        await channel.send(started, [stream.fileno() for stream in streams.values()])
    if detached:
        channel.close()
        await process.wait()
        return
    commands = asyncio.create_task(_pass_on(channel, process, on_loss))
    try:
        exit_code = await process.wait()
    finally:
        commands.cancel()
        await asyncio.gather(commands, return_exceptions=True)
    with contextlib.suppress(ChannelClosedError):
        await channel.send(Exited(exit_code))


async def _pass_on(channel: Channel[Request], process: Process, on_loss: int) -> None:
    while True:
        try:
            request, _ = await channel.receive()
        except ChannelClosedError:
            with contextlib.suppress(GcsError, UvmError):
                await process.signal(on_loss)
            return
        # The process may have ended meanwhile; its exit code is on its way then.
        with contextlib.suppress(GcsError, UvmError):
            if isinstance(request, Signal):
                await process.signal(request.number)
            elif isinstance(request, Resize):
                await process.resize(request.height, request.width)
