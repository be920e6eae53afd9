"""Hosts that come and go while processes and containers end: migration, rollback, many losses.

Nothing is told twice, and nothing to a host that can't know about it; every exit code is found.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import HResult
from tests.functional.bridge_support import (
    NEGOTIATED,
    PROBE,
    WAITED,
    Target,
    soon,
    start_container,
    start_in_container,
    start_in_vm,
)
from tests.support.fakehost import PATIENCE, UVM, FakeHost, rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fakehost import HostConnection, Reply, Rig

#: The first message id of a host that has taken over.
SEED = 10_000
LOSSES = 10


class Ward:
    """Processes, and the ids of the waits for them that are still to be answered."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.waits: dict[int, Target] = {}

    def target(self, status: int, container_id: str = UVM) -> Target:
        return Target(self.directory, f"gate-{status}", container_id, status)

    async def container(self, connection: HostConnection, status: int) -> Target:
        target = self.target(status, f"reconnect-{os.getpid()}-{status}")
        await start_container(connection, target, self.directory, self.rootfs)
        await self.wait(connection, target)
        return target

    async def process(self, connection: HostConnection, status: int) -> Target:
        target = self.target(status)
        await start_in_vm(connection, target)
        await self.wait(connection, target)
        return target

    async def exec(self, connection: HostConnection, status: int, container_id: str) -> Target:
        target = self.target(status, container_id)
        await start_in_container(connection, target)
        await self.wait(connection, target)
        return target

    async def wait(self, connection: HostConnection, target: Target) -> None:
        sequence = 500 + target.status
        await connection.send(MessageType.WAIT_FOR_PROCESS, target.wait(), sequence)
        self.waits[sequence] = target


@pytest.fixture
def ward(tmp_path: Path, busybox_rootfs: Path) -> Ward:
    return Ward(tmp_path, busybox_rootfs)


async def settled(connection: HostConnection) -> None:
    """The agent has taken in what was sent before."""
    assert (await connection.rpc(MessageType.START, {})).result == 0


async def ended(agent: Rig, target: Target) -> None:
    """The agent has seen the end of a process whose wait was on a lost connection."""
    await agent.agent.logged(
        lambda entry: (
            entry.fields.get("message-id") == 500 + target.status
            and entry.fields.get("name") == "opengcs::bridge::request"
        )
    )


async def take_over(agent: Rig) -> tuple[FakeHost, HostConnection]:
    """Another host at the same address: negotiates with id 0, then counts on from far above."""
    await agent.host.close()
    os.unlink(f"{agent.prefix}_{0x4000_0000}")
    host = FakeHost(agent.prefix)
    await host.listen()
    connection = await host.connection()
    assert (await connection.negotiate()).id == 0
    connection._next_id = SEED
    return host, connection


async def test_migration(agent: Rig, connection: HostConnection, ward: Ward) -> None:
    """Listen, negotiate, and for each process: adopt the old wait, then probe."""
    ended_before = await ward.container(connection, 3)
    running = await ward.container(connection, 4)
    of_vm = await ward.process(connection, 5)
    await settled(connection)
    connection.close()
    await ended_before.let_go()
    await of_vm.let_go()
    await ended(agent, ended_before)
    await ended(agent, of_vm)
    host, new = await take_over(agent)
    await settled(new)
    assert new.order[:-1] == [NEGOTIATED]

    async def adopt(target: Target) -> tuple[asyncio.Future[Reply], Reply]:
        old = new.expect(500 + target.status)
        return old, await new.rpc(MessageType.WAIT_FOR_PROCESS, target.wait(PROBE))

    old, probe = await adopt(ended_before)
    assert probe.body["ExitCode"] == (await soon(old)).body["ExitCode"] == 3
    async with asyncio.timeout(PATIENCE):
        assert (await new.notifications.get())["ContainerId"] == ended_before.container_id
    assert new.order[-3:] == [WAITED, MessageType.NOTIFICATION, WAITED]
    old, probe = await adopt(running)
    assert probe.result == HResult.TIMEOUT
    assert not old.done()
    await running.let_go()
    assert (await soon(old)).body["ExitCode"] == 4
    async with asyncio.timeout(PATIENCE):
        assert (await new.notifications.get())["ContainerId"] == running.container_id
    old, probe = await adopt(of_vm)
    assert probe.body["ExitCode"] == (await soon(old)).body["ExitCode"] == 5
    for target in (ended_before, running):
        body = {"ContainerId": target.container_id}
        assert (await new.rpc(MessageType.DELETE_CONTAINER_STATE, body)).result == 0
    assert new.strays.empty()
    assert new.notifications.empty()
    await host.close()


async def test_a_rollback(ward: Ward) -> None:
    """The host that asked is back: it probes nothing, and gets its answers when time is up."""
    async with rig(("-reconnect-hold-ms", "1")) as agent:
        connection = await agent.host.negotiated()
        container = await ward.container(connection, 3)
        of_vm = await ward.process(connection, 5)
        await settled(connection)
        connection.close()
        again = await agent.host.connection()
        await container.let_go()
        await of_vm.let_go()
        await ended(agent, container)
        await ended(agent, of_vm)
        answers = [again.expect(503), again.expect(505)]
        body = {"MinimumVersion": 4, "MaximumVersion": 4}
        negotiated = await again.rpc(MessageType.NEGOTIATE_PROTOCOL, body, sequence=77)
        assert (negotiated.id, negotiated.result) == (77, 0)
        assert [(await soon(answer)).body["ExitCode"] for answer in answers] == [3, 5]
        async with asyncio.timeout(PATIENCE):
            assert (await again.notifications.get())["ContainerId"] == container.container_id
        assert again.order[0] == NEGOTIATED
        await settled(again)
        assert again.strays.empty()


async def populate(ward: Ward, connection: HostConnection) -> list[Target]:
    """Three containers, an exec in each, four processes of the VM."""
    containers = [await ward.container(connection, status) for status in (10, 11, 12)]
    execs = [
        await ward.exec(connection, status, container.container_id)
        for status, container in zip((20, 21, 22), containers, strict=True)
    ]
    processes = [await ward.process(connection, status) for status in (30, 31, 32, 33)]
    await settled(connection)
    # An exec ends before its container does, which would kill it.
    return [*execs, *processes, *containers]


class Ledger:
    """All that hosts were told, over all connections."""

    def __init__(self, targets: list[Target]) -> None:
        self.exit_codes: dict[int, list[int]] = {500 + target.status: [] for target in targets}
        self.notified: list[str] = []
        self._awaited: dict[int, asyncio.Future[Reply]] = {}

    def expect(self, connection: HostConnection) -> None:
        """Adopt the waits that nobody was told the result of."""
        unanswered = [sequence for sequence, codes in self.exit_codes.items() if not codes]
        self._awaited = {sequence: connection.expect(sequence) for sequence in unanswered}

    async def complete(self, connection: HostConnection, notifications: int) -> None:
        """Wait until every wait is answered, and there are so many notifications in total."""
        for answer in self._awaited.values():
            await soon(answer)
        async with asyncio.timeout(PATIENCE):
            while len(self.notified) + connection.notifications.qsize() < notifications:
                await settled(connection)

    async def lose(self, connection: HostConnection) -> None:
        """End a connection, having read everything; enter what came on it."""
        await connection.close_orderly()
        for sequence, answer in self._awaited.items():
            if not answer.exception():
                self.exit_codes[sequence].append(answer.result().body["ExitCode"])
        while not connection.notifications.empty():
            self.notified.append(connection.notifications.get_nowait()["ContainerId"])
        assert connection.strays.empty()


async def test_many_losses_while_everything_ends(
    agent: Rig, connection: HostConnection, ward: Ward
) -> None:
    """Each exit is told once, on whatever connection there is; a host reads to the end of each."""
    targets = await populate(ward, connection)
    containers = sorted({target.container_id for target in targets} - {UVM})
    connection.close()
    ledger = Ledger(targets)
    for number in range(LOSSES):
        connection = await agent.host.negotiated()
        ledger.expect(connection)
        for target in targets:  # asks about some, and lets others be
            if target.status % 2 == number % 2:
                await connection.rpc(MessageType.WAIT_FOR_PROCESS, target.wait(PROBE))
        letting_go = asyncio.create_task(targets[number].let_go())
        await ledger.lose(connection)
        await letting_go
    connection = await agent.host.negotiated()
    ledger.expect(connection)
    for target in targets:
        await connection.rpc(MessageType.WAIT_FOR_PROCESS, target.wait())
    await ledger.complete(connection, len(containers))
    await ledger.lose(connection)
    assert ledger.exit_codes == {500 + target.status: [target.status] for target in targets}
    assert sorted(ledger.notified) == containers


async def test_abrupt_losses_hide_no_exit_code(
    agent: Rig, connection: HostConnection, ward: Ward
) -> None:
    """The host closes with answers unread; who asks afterwards learns every exit code."""
    targets = await populate(ward, connection)
    found: dict[int, int] = {}
    for target in targets:
        letting_go = asyncio.create_task(target.let_go())
        connection.close()
        await letting_go
        connection = await agent.host.negotiated()
        for sequence in ward.waits:
            connection.expect(sequence)
        for other in targets:
            if other.status not in found:
                reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, other.wait(PROBE))
                if reply.result == 0:
                    found[other.status] = reply.body["ExitCode"]
                else:
                    assert reply.result == HResult.TIMEOUT
    for target in targets:
        if target.status not in found:
            reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, target.wait())
            found[target.status] = reply.body["ExitCode"]
    assert found == {target.status: target.status for target in targets}
