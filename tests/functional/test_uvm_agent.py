"""The host library with the real agent and the real runc, over unix sockets, without a VM."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import RemoteError
from gcs.protocol.hresult import HResult
from tests.support.fakehost import AgentProcess, start_agent
from uvm.container import Container, new_container_id
from uvm.errors import BridgeClosedError
from uvm.guest import Guest
from uvm.listen import BRIDGE_PORT, UnixHostPorts
from uvm.process import Completed
from uvm.spec import ContainerOptions, ProcessOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class World:
    """A host with an agent connected to it."""

    def __init__(self, guest: Guest, agent: AgentProcess) -> None:
        self.guest = guest
        self.agent = agent

    async def container(self, rootfs: Path, *command: str, stdin: bytes | None = None) -> Completed:
        """Run a container to its end."""
        async with asyncio.timeout(100):
            container = await self.prepare(rootfs, *command)
            process = await container.start(stdin=stdin is not None)
            completed = await process.communicate(stdin or b"")
            await container.wait_exit()
            await container.remove()
        return completed

    async def prepare(
        self, rootfs: Path, *command: str, stop_signal: int | None = None
    ) -> Container:
        """Create a container whose root file system is a copy of a directory."""
        container = Container(self.guest, new_container_id())
        shutil.copytree(rootfs, container.rootfs_path, symlinks=True)
        try:
            options = ContainerOptions(ProcessOptions(command), stop_signal=stop_signal)
            await container.create(options)
        except RemoteError:
            shutil.rmtree(container.root)
            raise
        return container


@pytest.fixture
async def world() -> AsyncIterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="uvm-"))
    ports = UnixHostPorts(directory / "vsock")
    listener = ports.listen(BRIDGE_PORT)
    guest = Guest(ports)
    agent = await start_agent(
        *("-v4", "-log-format", "json", "-transport", f"unix:{directory / 'vsock'}")
    )
    try:
        async with asyncio.timeout(60):
            await guest.client.open(await listener.accept_once())
            await guest.client.negotiate()
        yield World(guest, agent)
    finally:
        await guest.close()
        status = await agent.stop()
        shutil.rmtree(directory)
    assert status == 0


async def test_streams_and_exit_code_of_a_process(world: World) -> None:
    process = await world.guest.execute_in_vm(
        ["/bin/sh", "-c", "cat; echo err >&2; exit 6"], stdin=True
    )
    data = os.urandom(2 << 20)
    assert await process.communicate(data) == Completed(6, data, b"err\n")


async def test_many_processes_at_once(world: World) -> None:
    async def run(number: int) -> Completed:
        process = await world.guest.execute_in_vm(
            ["/bin/sh", "-c", f"cat; exit {number}"], stdin=True
        )
        return await process.communicate(b"%d" % number)

    results = await asyncio.gather(*(run(number) for number in range(12)))
    assert [(done.exit_code, done.stdout) for done in results] == [
        (number, b"%d" % number) for number in range(12)
    ]


async def test_a_container_to_its_end(world: World, busybox_rootfs: Path) -> None:
    completed = await world.container(
        busybox_rootfs, "sh", "-c", "cat; hostname; exit 17", stdin=b"in\n"
    )
    assert completed == Completed(17, b"in\nuvm\n", b"")


async def test_a_container_that_runs_is_shut_down_for_its_removal(
    world: World, busybox_rootfs: Path
) -> None:
    container = await world.prepare(
        busybox_rootfs, "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    )
    process = await container.start()
    assert process.stdio.stdout is not None
    assert await asyncio.get_running_loop().sock_recv(process.stdio.stdout, 100) == b"ready\n"
    assert process.pid in await container.process_ids()
    process.close()
    await container.remove()
    assert (await container.wait_exit()).type == "GracefulExit"
    with pytest.raises(RemoteError) as failure:
        await container.process_ids()
    assert failure.value.hresult == HResult.SYSTEM_NOT_FOUND
    assert os.path.basename(container.root) not in os.listdir("/run/gcs/c")


async def test_an_exec_is_signalled_once(world: World, busybox_rootfs: Path) -> None:
    container = await world.prepare(busybox_rootfs, "sleep", "1000")
    await container.start(output=False)
    running = await container.execute(ProcessOptions(("sleep", "1000")), output=False)
    assert await running.signal(signal.SIGTERM)
    assert await running.wait() == 128 + signal.SIGTERM
    assert not await running.signal(signal.SIGTERM)
    assert container.init is not None
    assert await container.init.signal(signal.SIGKILL)
    assert await container.init.wait() == 128 + signal.SIGKILL
    assert (await container.wait_exit()).type == "ForcedExit"
    await container.remove()


async def test_a_program_that_is_not_there(world: World, busybox_rootfs: Path) -> None:
    with pytest.raises(RemoteError, match="nosuchprogram"):
        await world.container(busybox_rootfs, "nosuchprogram")


async def test_the_agents_stacks(world: World) -> None:
    assert "thread" in await world.guest.client.dump_stacks()


async def test_an_agent_that_dies_fails_what_waits_for_it(world: World) -> None:
    process = await world.guest.execute_in_vm(["/bin/sleep", "1000"])
    waiting = asyncio.create_task(process.wait())
    await world.guest.client.dump_stacks()
    os.kill(process.pid, signal.SIGTERM)
    assert await waiting == 0xFFFF_FFFF
    process.close()
    await world.agent.stop()
    with pytest.raises(BridgeClosedError):
        await world.guest.client.dump_stacks()


async def test_the_signal_that_an_image_wants_for_its_end(
    world: World, busybox_rootfs: Path
) -> None:
    script = "trap 'echo signalled; exit 3' USR1; echo ready; while :; do sleep 0.1; done"
    async with asyncio.timeout(60):
        container = await world.prepare(
            busybox_rootfs, "/bin/sh", "-c", script, stop_signal=signal.SIGUSR1
        )
        process = await container.start()
        assert process.stdio.stdout is not None
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(process.stdio.stdout, 64) == b"ready\n"
        removal = asyncio.create_task(container.remove())
        assert await loop.sock_recv(process.stdio.stdout, 64) == b"signalled\n"
        assert await process.wait() == 3
        await removal
