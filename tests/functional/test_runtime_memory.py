"""The control groups of a VM, in a corner of this machine's own."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from logging.handlers import QueueHandler
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import detect, memory_log, total_memory
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import ContainerState
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
    queue: asyncio.Queue[LogRecord] = asyncio.Queue()
    handler = QueueHandler(queue)
    logger = logging.getLogger(memory_log.__name__)
    logger.addHandler(handler)
    yield queue
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
