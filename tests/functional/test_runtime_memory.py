"""The control groups of a VM, in a corner of this machine's own."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from contextlib import contextmanager
from logging.handlers import QueueHandler
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import detect, memory_log, total_memory
from gcs.cgroup.files import read_number
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import ContainerState
from gcs.runtime import memory as memory_module
from gcs.runtime.memory import MemoryOptions, PodMemoryDriver, VmMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from logging import LogRecord

    from gcs.cgroup.cgroup import Cgroup, CgroupManager

MIB = 1 << 20
CORNER = f"/gcsmemory{os.getpid()}"
PODS, AGENT = f"{CORNER}/pods", f"{CORNER}/agent"


@pytest.fixture
def cgroups() -> Iterator[CgroupManager]:
    manager = detect()
    yield manager
    manager.group(CORNER).delete(kill=True)


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the agent's place."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


@pytest.fixture
async def events() -> AsyncIterator[asyncio.Queue[LogRecord]]:
    """Log entries about memory events."""
    with entries_of(memory_log.__name__) as queue:
        yield queue


@contextmanager
def entries_of(name: str) -> Iterator[asyncio.Queue[LogRecord]]:
    queue: asyncio.Queue[LogRecord] = asyncio.Queue()
    handler = QueueHandler(queue)
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield queue
    logger.setLevel(level)
    logger.removeHandler(handler)


def start(manager: CgroupManager, pid: int, reserve: int) -> VmMemory:
    options = MemoryOptions(reserve, agent_limit=1 << 40)
    memory = VmMemory(manager, options, pods=PODS, agent=AGENT, pid=pid)
    memory.start()
    return memory


async def test_the_reserve_is_kept_from_containers(
    cgroups: CgroupManager, agent: subprocess.Popen[bytes]
) -> None:
    memory = start(cgroups, agent.pid, 64 * MIB)
    try:
        pods = cgroups.group(PODS)
        expected = total_memory() - 64 * MIB
        assert abs(pods.memory_limit() - expected) < 4096
        assert cgroups.group(AGENT).process_ids() == [agent.pid]
        pods.set_memory_limit(128 * MIB)
        await PodMemoryDriver(memory).update(ContainerState())
        assert abs(pods.memory_limit() - expected) < 4096
    finally:
        memory.close()


async def test_containers_that_run_out_of_memory_are_logged(
    cgroups: CgroupManager, agent: subprocess.Popen[bytes], events: asyncio.Queue[LogRecord]
) -> None:
    memory = start(cgroups, agent.pid, total_memory() - 32 * MIB)
    pods = cgroups.group(PODS)
    try:
        child = run_in(pods, "tail", "/dev/zero")
        assert await asyncio.to_thread(child.wait) == -9
        entry = await events.get()
    finally:
        memory.close()
    fields = vars(entry)["fields"]
    assert (fields["cgroup"], fields["thresholdBytes"]) == (PODS, 32 * MIB)
    assert entry.levelno == logging.WARNING


async def test_memory_that_is_added_counts_at_once(
    cgroups: CgroupManager, agent: subprocess.Popen[bytes]
) -> None:
    announcer, events = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    options = MemoryOptions(64 * MIB, agent_limit=1 << 40)
    memory = VmMemory(
        cgroups, options, pods=PODS, agent=AGENT, pid=agent.pid, open_events=lambda: events
    )
    with announcer, entries_of(memory_module.__name__) as entries:
        memory.start()
        await entries.get()
        try:
            pods = cgroups.group(PODS)
            expected = pods.memory_limit()
            pods.set_memory_limit(128 * MIB)
            announcer.send(b"add@/devices/virtual/net/lo\0ACTION=add\0")
            announcer.send(b"online@/devices/system/memory/memory40\0ACTION=online\0")
            async with asyncio.timeout(30):
                assert f"is {expected} bytes" in (await entries.get()).getMessage()
            assert pods.memory_limit() == expected
        finally:
            memory.close()


async def test_the_agent_gives_way_last(
    cgroups: CgroupManager, agent: subprocess.Popen[bytes]
) -> None:
    start(cgroups, agent.pid, 64 * MIB).close()
    name = "memory.min" if cgroups.version == "v2" else "memory.soft_limit_in_bytes"
    files = [f"{cgroups.group(path).memory_directory()}/{name}" for path in (PODS, AGENT)]
    assert [read_number(path) for path in files] == [0, 64 * MIB]


async def test_a_vm_that_is_too_small(
    cgroups: CgroupManager, agent: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(GcsError, match="root memory reserve"):
        start(cgroups, agent.pid, total_memory())


async def test_outside_a_vm_the_machine_is_left_alone() -> None:
    with pytest.raises(GcsError, match="leaves the memory of the machine alone"):
        await PodMemoryDriver(None).update(ContainerState())


def run_in(group: Cgroup, *command: str) -> subprocess.Popen[bytes]:
    """Start a command that has waited for its place in a control group."""
    child = subprocess.Popen(["sh", "-c", 'read x; exec "$@"', "sh", *command], stdin=-1)
    group.add_process(child.pid)
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.close()
    return child
