"""How a keeper is started."""

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from uvm.boot import BootOptions
from uvm.errors import UvmError
from uvm.keeper.channel import Channel, ChannelClosedError
from uvm.keeper.log import log_path, open_log
from uvm.keeper.messages import Answer, Done, Failed, Request, Text
from uvm.vm.machine import MOST_CONTROLLERS

_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]


class KeeperConfig(msgspec.Struct):
    """What a keeper is told when it starts.

    Attributes:
        name: Name of the VM.
        options: What to boot.
        ready_fd: Socket on which it reports progress and readiness.
    """

    name: str
    options: BootOptions
    ready_fd: int


def ready_channel(config: KeeperConfig) -> Channel[Request]:
    """Return the keeper's end of the connection to the command that started it."""
    return Channel(socket.socket(fileno=config.ready_fd), msgspec.json.Decoder(Request))


async def start_keeper(
    name: str, options: BootOptions, tell: Callable[[str], None]
) -> dict[str, float]:
    """Start a keeper in the background and wait until its VM is ready.

    Args:
        name: Name of the VM.
        options: What to boot.
        tell: Called with each line the person should read.

    Returns:
        The time marks of the boot, in seconds.

    Raises:
        UvmError: It did not come up; nothing of it is left.
    """
    log = log_path()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel: Channel[Answer] = Channel(ours, msgspec.json.Decoder(Answer))
    with contextlib.closing(channel):
        with theirs:
            # What runs in a VM that stays is not known yet: it gets all that a VM can have.
            options = dataclasses.replace(options, controllers=MOST_CONTROLLERS)
            config = KeeperConfig(name, options, theirs.fileno())
            # What the interpreter itself says; all else comes by a handler of the keeper's.
            with os.fdopen(open_log(log), "ab") as output:
                # Not asyncio's: the keeper is to outlive this process and its loop.
                subprocess.Popen(  # noqa: ASYNC220
                    [sys.executable, "-m", "uvm.keeper", msgspec.json.encode(config).decode()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": _search_path()},
                )
        return await _await_ready(channel, tell, log)


async def _await_ready(
    channel: Channel[Answer], tell: Callable[[str], None], log: Path
) -> dict[str, float]:
    marks: dict[str, float] = {}
    while True:
        try:
            answer, _ = await channel.receive()
        except ChannelClosedError:
            raise UvmError(f"the keeper of the VM ended; see {log}") from None
        if isinstance(answer, Failed):
            raise UvmError(answer.message)
        if isinstance(answer, Done):
            return marks
        if isinstance(answer, Text) and answer.text.startswith("{"):
            marks = msgspec.json.decode(answer.text, type=dict[str, float])
        elif isinstance(answer, Text):
            tell(answer.text)
        await asyncio.sleep(0)


def _search_path() -> str:
    search = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(entry for entry in search if entry)
