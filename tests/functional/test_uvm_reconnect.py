"""A host that loses the agent on purpose and takes over again, with the real agent."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.many_pods import Load
from tests.support.uvm_agent import connected_agent, nothing_left
from uvm.pod import Pod
from uvm.spec import ContainerOptions, ProcessOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from uvm.guest import Guest

#: Begins the ids of all containers: others use this machine, too.
MARK = f"uvmloss{os.getpid():x}n"
ID = f"{MARK:0<63}"


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    with nothing_left(MARK):
        # A host that is back, and says nothing, gets what was held back for it soon.
        async with connected_agent("-reconnect-hold-ms", "500") as (guest, _), asyncio.timeout(100):
            yield guest


@pytest.mark.parametrize("rollback", [False, True])
async def test_streams_and_waits_go_on(
    guest: Guest, busybox_rootfs: Path, *, rollback: bool
) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], pod_id=f"{ID}1")
    await pod.start()
    script = "while read line; do echo got $line; done; exit 5"
    workload = await pod.create(ContainerOptions(ProcessOptions(("sh", "-c", script))), f"{ID}2")
    process = await workload.start_recoverable(stdin=True)
    assert process.stdin is not None
    assert process.stdout is not None
    in_vm = await guest.execute_in_vm(["cat"], stdin=True)
    of_vm = asyncio.create_task(in_vm.wait())
    waiting, exited = asyncio.create_task(process.wait()), asyncio.create_task(workload.wait_exit())
    await process.stdin.write(b"one\n")
    await process.stdout.read_until(b"got one\n")
    first = guest.client.connection
    await guest.reconnect(rollback=rollback)
    assert guest.client.connection is not first
    assert first.closed
    await process.stdin.write(b"two\n")
    await process.stdin.end()
    assert await process.stdout.read_all() == b"got one\ngot two\n"
    assert await waiting == 5
    assert (await exited).container_id == workload.id
    await process.finish()
    assert (await in_vm.communicate(b"still there")).stdout == b"still there"
    assert await of_vm == 0
    await pod.remove()


async def test_an_exit_while_nobody_is_there(guest: Guest, busybox_rootfs: Path) -> None:
    pod = Pod(guest, [os.fspath(busybox_rootfs)], pod_id=f"{ID}1")
    await pod.start()
    options = ContainerOptions(ProcessOptions(("sh", "-c", "read line; echo end; exit 6")))
    workload = await pod.create(options, f"{ID}2")
    process = await workload.start_recoverable(stdin=True)
    communicating = asyncio.create_task(process.communicate(b"go\n"))
    exited = asyncio.create_task(workload.wait_exit())
    for _ in range(5):
        await guest.reconnect()
    completed = await communicating
    assert (completed.exit_code, completed.stdout) == (6, b"end\n")
    assert (await exited).container_id == workload.id
    await pod.remove()


async def test_many_containers_and_many_losses(
    guest: Guest, busybox_rootfs: Path, tmp_path: Path
) -> None:
    layers = [os.fspath(busybox_rootfs)]
    scratches = [os.fspath(tmp_path / f"scratch{number}") for number in range(5)]
    load = Load(guest, layers, mark=MARK, containers=4, lines=20_000, scratches=scratches)
    await load.run(losses=5)
    assert load.connections > 20
