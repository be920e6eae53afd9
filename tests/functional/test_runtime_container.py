"""The life of a container: real runc, a busybox root file system, a host on unix sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mount import MNT_DETACH, mount, unmount
from gcs.protocol.errors import (
    InvalidStateError,
    NotFoundError,
    SystemAlreadyStoppedError,
    SystemNotFoundError,
    WaitTimeoutError,
)
from tests.functional.runtime_support import ACTIVITY, Machine
from tests.support.leaks import footprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    before = footprint(f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(machine.mark, os.fspath(tmp_path)) == before


async def test_output_exit_code_and_one_notification_after_the_wait(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "echo out; echo err >&2; exit 7")
    streams = await machine.streams("stdout stderr")
    pid = await machine.start(container, streams)
    assert streams.stdout.dialled
    assert streams.stderr.dialled
    assert await streams.stdout.read_all() == b"out\n"
    assert await streams.stderr.read_all() == b"err\n"
    result = await machine.pending(container, pid)
    assert result.exit_code == 7
    assert machine.notifications.empty()
    result.answered()
    result.answered()
    notification = machine.notifications.get_nowait()
    assert (notification.container_id, notification.activity_id) == (container, ACTIVITY)
    assert (notification.type, notification.operation, notification.result) == (
        "UnexpectedExit",
        "None",
        0,
    )
    await machine.host.delete_container_state(container)
    assert machine.notifications.empty()
    with pytest.raises(SystemNotFoundError):
        await machine.host.delete_container_state(container)


async def test_exit_is_notified_although_nobody_waits(machine: Machine) -> None:
    container = await machine.create("true")
    await machine.start(container)
    notification = await machine.notifications.get()
    assert notification.container_id == container


async def test_notification_follows_the_last_of_several_waits(machine: Machine) -> None:
    container = await machine.create("cat")
    streams = await machine.streams("stdin")
    pid = await machine.start(container, streams)
    waits = [asyncio.create_task(machine.pending(container, pid)) for _ in range(3)]
    await streams.stdin.end()
    results = await asyncio.gather(*waits)
    assert [result.exit_code for result in results] == [0, 0, 0]
    for result in results:
        assert machine.notifications.empty()
        result.answered()
    assert machine.notifications.qsize() == 1


async def test_code_of_the_init_stays_until_delete(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "exit 3")
    pid = await machine.start(container)
    assert [await machine.wait(container, pid) for _ in range(3)] == [3, 3, 3]


async def test_wait_has_a_time_limit(machine: Machine) -> None:
    container = await machine.create("cat")
    streams = await machine.streams("stdin")
    pid = await machine.start(container, streams)
    for limit in (0, 20):
        with pytest.raises(WaitTimeoutError):
            await machine.wait(container, pid, limit)
    await streams.stdin.end()
    assert await machine.wait(container, pid, 30_000) == 0


async def test_what_the_agent_adds_to_the_specification(machine: Machine) -> None:
    script = "hostname; cat /etc/hostname; grep test /etc/hosts; wc -c </etc/resolv.conf"
    code, output = await machine.run("sh", "-c", script)
    assert code == 0
    assert output.decode().split("\n") == [
        "test.example",
        "test.example",
        "127.0.0.1 test.example test",
        "0",
        "",
    ]


async def test_mounts_of_the_host_win(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 theirs\n")
    spec = machine.specification("cat", "/etc/hosts")
    spec["mounts"].append(
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": os.fspath(tmp_path / "hosts"),
            "options": ["rbind", "ro"],
        }
    )
    assert await machine.run(spec=spec) == (0, b"10.0.0.1 theirs\n")


async def test_stdin_is_half_closed(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "cat; echo after; exit 4")
    streams = await machine.streams("stdin stdout")
    pid = await machine.start(container, streams)
    await streams.stdin.send(b"typed\n")
    assert await streams.stdout.read_until(b"\n") == b"typed\n"
    await streams.stdin.end()
    assert await streams.stdout.read_all() == b"after\n"
    assert await machine.wait(container, pid) == 4


async def test_nothing_is_lost_at_exit(machine: Machine) -> None:
    size = 32 << 20
    script = f"head -c {size} /dev/zero"
    code, output = await machine.run("sh", "-c", script)
    assert code == 0
    assert hashlib.sha256(output).digest() == hashlib.sha256(bytes(size)).digest()


async def test_output_that_nobody_wants_kills_nobody(machine: Machine) -> None:
    container = await machine.create("sh", "-c", "head -c 3000000 /dev/zero && exit 5")
    pid = await machine.start(container)
    assert await machine.wait(container, pid) == 5


async def test_terminal(machine: Machine) -> None:
    script = "trap 'stty size; exit 6' WINCH; stty size; echo ready; while :; do read x; done"
    container = await machine.create(
        "sh", "-c", script, terminal=True, consoleSize={"height": 30, "width": 90}
    )
    streams = await machine.streams("stdin stdout")
    pid = await machine.start(container, streams)
    assert await streams.stdout.read_until(b"ready\r\n") == b"30 90\r\nready\r\n"
    await machine.host.resize_console(container, pid, 40, 100)
    await streams.stdin.send(b"\n")
    assert b"40 100\r\n" in await streams.stdout.read_all()
    assert await machine.wait(container, pid) == 6
    await machine.host.resize_console(container, pid, 1, 1)


async def test_exec(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    streams = await machine.streams("stdin stdout stderr")
    pid = await machine.exec(
        container, "sh", "-c", "pwd; cat; echo err >&2; exit 9", streams=streams, cwd="/new/place"
    )
    await streams.stdin.send(b"in")
    await streams.stdin.end()
    assert await streams.stdout.read_all() == b"/new/place\nin"
    assert await streams.stderr.read_all() == b"err\n"
    # The code is kept until somebody asks, for all who ask at once, and then no longer.
    first, second = await asyncio.gather(*(machine.pending(container, pid) for _ in range(2)))
    first.answered()
    assert (first.exit_code, second.exit_code) == (9, 9)
    assert await machine.wait(container, pid) == 9
    second.answered()
    with pytest.raises(NotFoundError):
        await machine.wait(container, pid)
    assert machine.notifications.empty()


async def test_exec_with_a_terminal(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    streams = await machine.streams("stdin stdout")
    pid = await machine.exec(
        container, "sh", "-c", "read x; stty size; tty", streams=streams, terminal=True
    )
    await machine.host.resize_console(container, pid, 12, 34)
    await streams.stdin.send(b"go\n")
    output = await streams.stdout.read_all()
    assert b"12 34\r\n/dev/pts/" in output
    assert await machine.wait(container, pid) == 0


async def test_exec_of_a_program_that_ends_at_once(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    pids = await asyncio.gather(*(machine.exec(container, "false") for _ in range(10)))
    codes = await asyncio.gather(*(machine.wait(container, pid) for pid in pids))
    assert codes == [1] * 10


async def test_signals(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    pid = await machine.exec(container, "sleep", "1000")
    await machine.host.signal_process(container, pid, SIGUSR1)
    result = await machine.pending(container, pid)
    assert result.exit_code == 128 + SIGUSR1
    with pytest.raises(NotFoundError):
        await machine.host.signal_process(container, pid, SIGUSR1)
    result.answered()


@pytest.mark.parametrize(
    ("signal", "code", "exit_type"),
    [(SIGTERM, 42, "GracefulExit"), (SIGUSR1, 43, "UnexpectedExit"), (0, 137, "ForcedExit")],
)
async def test_signal_to_the_init(machine: Machine, signal: int, code: int, exit_type: str) -> None:
    script = "trap 'exit 42' TERM; trap 'exit 43' USR1; echo ready; while :; do sleep 0.05; done"
    container = await machine.create("sh", "-c", script)
    streams = await machine.streams()
    pid = await machine.start(container, streams)
    await streams.stdout.read_until(b"ready\n")
    await machine.host.signal_process(container, pid, signal)
    assert await machine.wait(container, pid) == code
    assert machine.notifications.get_nowait().type == exit_type
    with pytest.raises(NotFoundError):
        await machine.host.signal_process(container, pid, SIGKILL)


@pytest.mark.parametrize(
    ("graceful", "code", "exit_type"), [(True, 42, "GracefulExit"), (False, 137, "ForcedExit")]
)
async def test_shutdown(machine: Machine, graceful: bool, code: int, exit_type: str) -> None:
    script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done"
    container = await machine.create("sh", "-c", script)
    streams = await machine.streams()
    pid = await machine.start(container, streams)
    await streams.stdout.read_until(b"ready\n")
    await machine.host.shutdown_container(container, graceful=graceful)
    assert await machine.wait(container, pid) == code
    assert machine.notifications.get_nowait().type == exit_type
    with pytest.raises(SystemAlreadyStoppedError):
        await machine.host.shutdown_container(container, graceful=graceful)


async def test_exec_is_refused_when_the_container_has_ended(machine: Machine) -> None:
    container = await machine.create("true")
    await machine.wait(container, await machine.start(container))
    with pytest.raises(SystemAlreadyStoppedError):
        await machine.exec(container, "true")
    with pytest.raises(InvalidStateError):
        await machine.start(container)


async def test_a_container_starts_once(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    with pytest.raises(InvalidStateError):
        await machine.start(container)


async def test_delete_kills_a_running_container(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    pid = await machine.start(container)
    execed = await machine.exec(container, "sleep", "1000")
    waits = [asyncio.create_task(machine.wait(container, each)) for each in (pid, execed)]
    await asyncio.sleep(0)
    await machine.host.delete_container_state(container)
    assert await asyncio.gather(*waits) == [137, 137]
    assert machine.notifications.get_nowait().type == "ForcedExit"
    assert not machine.bundle(container).exists()


async def test_delete_of_a_container_that_was_never_started(machine: Machine) -> None:
    container = await machine.create("true")
    await machine.host.delete_container_state(container)
    assert machine.notifications.get_nowait().container_id == container
    assert machine.notifications.empty()


async def test_delete_leaves_what_is_still_mounted(machine: Machine) -> None:
    container = await machine.create("true")
    await machine.wait(container, await machine.start(container))
    mounted = machine.bundle(container) / "rootfs"
    mounted.mkdir()
    mount("tmpfs", os.fspath(mounted), "tmpfs")
    try:
        (mounted / "precious").touch()
        await machine.host.delete_container_state(container)
        assert (mounted / "precious").exists()
        assert not (machine.bundle(container) / "config.json").exists()
    finally:
        unmount(os.fspath(mounted), MNT_DETACH)


async def test_processes_do_not_outlive_an_init_without_a_pid_namespace(machine: Machine) -> None:
    spec = machine.specification("sh", "-c", "read x; exit 0")
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "ipc"}]
    del spec["hostname"]
    container = await machine.create(spec=spec)
    streams = await machine.streams("stdin")
    pid = await machine.start(container, streams)
    execed = await machine.exec(container, "sleep", "1000")
    await streams.stdin.end()
    assert await machine.wait(container, execed) == 137
    assert await machine.wait(container, pid) == 0


async def test_a_child_that_keeps_the_output_delays_the_exit_only_so_long(
    machine: Machine,
) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    streams = await machine.streams()
    script = "sleep 1000 & echo started; exit 8"
    pid = await machine.exec(container, "sh", "-c", script, streams=streams)
    output, code = await asyncio.gather(streams.stdout.read_all(), machine.wait(container, pid))
    assert (output, code) == (b"started\n", 8)


async def test_many_at_once(machine: Machine) -> None:
    scripts = [f"echo {number}; exit {number}" for number in range(20)]
    results = await asyncio.gather(*(machine.run("sh", "-c", script) for script in scripts))
    assert results == [(number, f"{number}\n".encode()) for number in range(20)]
    names = {machine.notifications.get_nowait().container_id for _ in range(20)}
    assert len(names) == 20
    assert machine.notifications.empty()


def command_of(pid: int) -> str:
    """Return the name of the program that a process runs."""
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


async def test_processes_and_statistics(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    pid = await machine.start(container)
    execed = await machine.exec(container, "sleep", "1000")
    for process in (pid, execed):
        # Until then it is runc, whose threads count as well.
        while command_of(process) != "sleep":  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0)
    properties = await machine.properties(container, "ProcessList", "Statistics", "Bogus")
    assert [entry.process_id for entry in properties.process_list] == sorted((pid, execed))
    assert properties.metrics is not None
    assert properties.metrics["memory"]["usage"]["limit"] == 256 << 20
    assert properties.metrics["memory"]["usage"]["usage"] > 0
    assert properties.metrics["cpu"]["usage"]["total"] > 0
    assert properties.metrics["pids"]["current"] == 2


async def test_limits_of_a_running_container_change(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    settings = {"Linux": {"memory": {"limit": 128 << 20}}}
    await machine.modify(container, "ContainerConstraints", settings)
    metrics = (await machine.properties(container, "Statistics")).metrics
    assert metrics is not None
    assert metrics["memory"]["usage"]["limit"] == 128 << 20


async def test_closing_the_agent_ends_what_runs(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    pid = await machine.start(container)
    await machine.close()
    assert machine.notifications.get_nowait().type == "ForcedExit"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
