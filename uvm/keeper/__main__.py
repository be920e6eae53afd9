"""The background process of one kept VM: ``python -m uvm.keeper CONFIG``."""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import Any

import msgspec

from gcs.protocol.errors import GcsError
from uvm.boot import build_machine
from uvm.errors import UvmError
from uvm.keeper.agent_log import AgentLog
from uvm.keeper.channel import Channel, ChannelClosedError, listen
from uvm.keeper.client import CONTROL_SOCKET
from uvm.keeper.config import KeeperConfig, ready_channel
from uvm.keeper.log import configure_log, log_path
from uvm.keeper.messages import Done, Request, Text
from uvm.keeper.server import Keeper, failure
from uvm.utility_vm import UtilityVm
from uvm.vm.directory import RunDirectory


async def keep(config: KeeperConfig, starter: Channel[Request]) -> None:
    """Boot a VM, serve commands until it ends, remove everything."""
    async with contextlib.AsyncExitStack() as undo:
        messages: list[str] = []
        machine, vsock = await build_machine(config.options, messages.append)
        for message in messages:
            await starter.send(Text(message))
        directory = RunDirectory.create(config.name)
        undo.callback(directory.remove)
        log = AgentLog(directory.path / "guest.log")
        undo.callback(log.close)
        utility = UtilityVm(machine, directory.path, vsock=vsock, on_log=log.write)
        await _unless_given_up(utility, starter)
        undo.push_async_callback(utility.stop)
        keeper = Keeper(config.name, utility, log)
        undo.push_async_callback(keeper.close)
        listener = listen(directory.path / CONTROL_SOCKET)
        undo.callback(listener.close)
        with contextlib.suppress(ChannelClosedError):
            await starter.send(Text(utility.timings.to_json()))
            await starter.send(Done())
        starter.close()
        await _until_the_end(keeper, utility, listener)


async def _unless_given_up(utility: UtilityVm, starter: Channel[Request]) -> None:
    """Boot, unless the command that asked for it goes away."""
    boot = asyncio.create_task(utility.boot())
    gone = asyncio.create_task(starter.receive())
    waiting: set[asyncio.Task[Any]] = {boot, gone}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not boot.done():
            raise UvmError("given up")
        boot.result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _until_the_end(keeper: Keeper, utility: UtilityVm, listener: socket.socket) -> None:
    waiting: set[asyncio.Task[Any]] = {
        asyncio.create_task(keeper.serve(listener)),
        asyncio.create_task(keeper.stopped.wait()),
        asyncio.create_task(utility.vm.wait()),
    }
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if keeper.stopping:
            await keeper.stopped.wait()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _main(config: KeeperConfig) -> int:
    configure_log(config.name, log_path())
    starter = ready_channel(config)
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await keep(config, starter)
    except (UvmError, GcsError, OSError) as error:
        with contextlib.suppress(ChannelClosedError):
            await starter.send(failure(error))
        return 1
    except asyncio.CancelledError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(msgspec.json.decode(sys.argv[1], type=KeeperConfig))))
