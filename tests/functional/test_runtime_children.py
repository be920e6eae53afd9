"""Ownership of child processes, and orphans."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from gcs.runtime.children import LOST, Children
from tests.support.reserved_signals import RESERVED_SIGNALS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SIGKILL = 9


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children()
    yield children
    children.close()


async def leave_orphan(children: Children, script: str, pid_file: Path) -> int:
    """Run a script in a process whose parent exits, and return its pid."""
    parent = f"sh -c {script!r} & echo $! >{pid_file}"
    await children.spawn(["sh", "-c", parent]).wait()
    return int(await asyncio.to_thread(pid_file.read_text))


async def test_orphan_is_adopted_while_it_runs(children: Children, tmp_path: Path) -> None:
    with children.expect() as newcomers:
        pid = await leave_orphan(children, "exec sleep 1000", tmp_path / "pid")
        child = newcomers.adopt(pid)
    assert child.status is None
    child.signal(SIGKILL)
    status = await child.wait()
    assert (status.code, status.signal, status.shell_code) == (0, SIGKILL, 137)
    with pytest.raises(ProcessLookupError):
        child.signal(SIGKILL)
    child.kill()


async def test_orphan_is_adopted_after_it_was_reaped(children: Children, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with children.expect() as newcomers:
        pid = await leave_orphan(children, f"read x <{gate}; exit 7", tmp_path / "pid")
        opened = await asyncio.to_thread(open, gate, "w")
        opened.close()
        await gone(pid)
        child = newcomers.adopt(pid)
    assert (await child.wait()).code == 7


async def gone(pid: int) -> None:
    """Wait until a process has ended and was reaped."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    await ended.wait()
    loop.remove_reader(pidfd)
    os.close(pidfd)
    # The kernel sends SIGCHLD after it has marked the pidfd; the reaper runs when that is read.
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0)


async def test_what_is_no_child_cannot_be_adopted(children: Children) -> None:
    with children.expect() as newcomers:
        with pytest.raises(ProcessLookupError):
            newcomers.adopt(1)
        with pytest.raises(ProcessLookupError):
            newcomers.adopt(2**22 + 1)


async def test_many_waiters_of_whom_one_gives_up(children: Children) -> None:
    child = children.spawn(["sh", "-c", "read x; exit 3"], stdin=(pipe := os.pipe())[0])
    waits = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    for descriptor in pipe:
        os.close(descriptor)
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [getattr(result, "code", None) for result in results[1:]] == [3, 3]


async def test_group_is_killed_with_its_leader(children: Children, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    script = "sleep 1000 & echo ready; wait"
    child = children.spawn(["sh", "-c", script], stdout=writer, leads_group=True)
    os.close(writer)
    assert await asyncio.to_thread(os.read, reader, 100) == b"ready\n"
    child.kill_group()
    # The sleeping child held the pipe, too.
    assert await asyncio.to_thread(os.read, reader, 100) == b""
    os.close(reader)
    assert (await child.wait()).signal == SIGKILL


def steal(pid: int) -> None:
    os.waitpid(pid, 0)


async def test_status_that_somebody_else_has_taken(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    child = children.spawn(["true"])
    steal(child.pid)
    assert await child.wait() == LOST
    assert f"process {child.pid} was reaped by somebody else" in caplog.text


async def test_spawn_that_fails_leaves_nothing(children: Children) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        children.spawn(["/nope"])
    with pytest.raises(FileNotFoundError):
        children.spawn(["true"], directory="/nope")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_signals_are_as_after_exec(children: Children) -> None:
    """Python ignores SIGPIPE; a program that we start must not."""
    reader, writer = os.pipe()
    child = children.spawn(["grep", "SigIgn", "/proc/self/status"], stdout=writer)
    os.close(writer)
    await child.wait()
    name, ignored = os.read(reader, 100).split()
    assert name == b"SigIgn:"
    assert int(ignored, 16) & ~RESERVED_SIGNALS == 0
    os.close(reader)
