"""The host library with a real agent on this machine, over unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.fakehost import AgentProcess, start_agent
from tests.support.leaks import footprint
from uvm.guest import Guest
from uvm.listen import BRIDGE_PORT, UnixHostPorts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@contextlib.asynccontextmanager
async def connected_agent(*arguments: str) -> AsyncIterator[tuple[Guest, AgentProcess]]:
    """Start an agent and negotiate; it has to end in peace.

    arguments: more of them for the agent.
    """
    directory = Path(tempfile.mkdtemp(prefix="uvm-"))
    ports = UnixHostPorts(directory / "vsock")
    listener = ports.listen(BRIDGE_PORT)
    guest = Guest(ports)
    agent = await start_agent(
        *("-v4", "-log-format", "json", "-transport", f"unix:{directory / 'vsock'}"), *arguments
    )
    try:
        async with asyncio.timeout(60):
            await guest.client.open(await listener.accept_once())
            await guest.client.negotiate()
        yield guest, agent
    finally:
        await guest.close()
        status = await agent.stop()
        shutil.rmtree(directory)
    assert status == 0


@contextlib.contextmanager
def nothing_left(mark: str) -> Iterator[None]:
    """See to it that nothing is left whose name has a mark in it, also when the test has failed."""
    before = footprint(mark)
    try:
        yield
        assert footprint(mark) == before
        assert directories(mark) == []
    finally:
        with open("/proc/self/mountinfo") as mounts:
            points = [line.split()[4] for line in mounts if mark in line]
        for point in reversed(points):
            subprocess.run(["umount", "-l", point], check=True)
        for directory in directories(mark):
            shutil.rmtree(directory)


def directories(mark: str) -> list[str]:
    """Return the directories of containers whose names have a mark in them."""
    return [
        os.path.join(parent, name)
        for parent in ("/run/gcs/c", "/run/gcs/pods")
        if os.path.isdir(parent)
        for name in os.listdir(parent)
        if mark in name
    ]
