"""Processes of the VM itself (spec 4.9, appendix E)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import (
    GcsError,
    InvalidArgumentError,
    NotFoundError,
    SystemNotFoundError,
    WaitTimeoutError,
)
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KILLED = 0xFFFF_FFFF


async def ended(pid: int) -> None:
    """Wait until a process has ended, whoever reaps it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pidfd, readable.set)
    await readable.wait()
    loop.remove_reader(pidfd)
    os.close(pidfd)


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    before = footprint(os.fspath(tmp_path))
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(os.fspath(tmp_path)) == before


async def test_environment_and_directory_are_exactly_as_asked(
    machine: Machine, tmp_path: Path
) -> None:
    streams = await machine.streams("stdout stderr")
    pid = await machine.external(
        "sh",
        "-c",
        "pwd; tr '\\0' '\\n' </proc/$$/environ; echo oops >&2; exit 3",
        environment={"B": "two", "A": "x=y z"},
        working_directory=os.fspath(tmp_path),
        streams=streams,
    )
    assert await streams.stdout.read_all() == f"{tmp_path}\nB=two\nA=x=y z\n".encode()
    assert await streams.stderr.read_all() == b"oops\n"
    assert await machine.wait(UVM_ID, pid) == 3
    with pytest.raises(NotFoundError):
        await machine.wait(UVM_ID, pid)


async def test_program_is_found_in_the_path_of_the_agent(machine: Machine) -> None:
    streams = await machine.streams()
    await machine.external("echo", "found", environment={"PATH": "/nowhere"}, streams=streams)
    assert await streams.stdout.read_all() == b"found\n"


async def test_command_line_is_split_like_a_shell_does(machine: Machine) -> None:
    streams = await machine.streams()
    await machine.execute(UVM_ID, streams, command_line=r"""printf '%s|' a "b c" d\ e 'f"g'""")
    assert await streams.stdout.read_all() == b'a|b c|d e|f"g|'


async def test_streams_are_the_sockets_themselves_or_null(machine: Machine) -> None:
    streams = await machine.streams()
    script = "for n in 0 1 2; do readlink /proc/self/fd/$n; done; ls /proc/$$/fd"
    await machine.external("sh", "-c", script, streams=streams)
    lines = (await streams.stdout.read_all()).decode().split("\n")
    assert lines[0] == "/dev/null"
    assert lines[1].startswith("socket:[")
    assert lines[2] == "/dev/null"
    assert lines[3:] == ["0", "1", "2", ""]


async def test_stdin_is_half_closed(machine: Machine) -> None:
    streams = await machine.streams("stdin stdout")
    pid = await machine.external("sh", "-c", "cat; echo after; exit 4", streams=streams)
    await streams.stdin.send(b"typed\n")
    assert await streams.stdout.read_until(b"\n") == b"typed\n"
    await streams.stdin.end()
    assert await streams.stdout.read_all() == b"after\n"
    assert await machine.wait(UVM_ID, pid) == 4


async def test_broken_connection_reaches_the_process(machine: Machine) -> None:
    streams = await machine.streams("stdin stdout")
    pid = await machine.external("sh", "-c", "read x; while echo y; do :; done", streams=streams)
    await streams.stdout.close()
    await streams.stdin.send(b"\n")
    assert await machine.wait(UVM_ID, pid) == KILLED


async def test_exit_is_answered_though_a_child_holds_the_output(machine: Machine) -> None:
    streams = await machine.streams()
    pid = await machine.external("sh", "-c", "sleep 1000 & echo $!; exit 5", streams=streams)
    child = int(await streams.stdout.read_until(b"\n"))
    assert await machine.wait(UVM_ID, pid, 10_000) == 5
    os.kill(child, 9)
    assert await streams.stdout.read_all() == b""
    await ended(child)


async def test_signals(machine: Machine) -> None:
    pid = await machine.external("sleep", "1000")
    with pytest.raises(WaitTimeoutError):
        await machine.wait(UVM_ID, pid, 0)
    await machine.host.signal_process(UVM_ID, pid, 0)
    result = await machine.pending(UVM_ID, pid)
    assert result.exit_code == KILLED
    with pytest.raises(NotFoundError):
        await machine.host.signal_process(UVM_ID, pid, 9)
    result.answered()
    with pytest.raises(SystemNotFoundError):
        await machine.host.signal_process(UVM_ID, pid, 9)


async def test_signal_that_does_not_exist(machine: Machine) -> None:
    pid = await machine.external("sleep", "1000")
    for signal in (65, -1, 0x7FFF_FFFF):
        with pytest.raises(InvalidArgumentError):
            await machine.host.signal_process(UVM_ID, pid, signal)


async def test_terminal_is_the_controlling_one_and_can_be_resized(machine: Machine) -> None:
    streams = await machine.streams("stdin stdout")
    pid = await machine.external(
        "sh", "-c", "read x; stty size </dev/tty; tty; stat -c %a $(tty)", streams=streams,
        emulate_console=True, working_directory="/tmp",
    )  # fmt: skip
    await machine.host.resize_console(UVM_ID, pid, 11, 22)
    await streams.stdin.send(b"\n")
    lines = (await streams.stdout.read_all()).decode().split("\r\n")
    assert lines[1] == "11 22"
    assert lines[2].startswith("/dev/pts/")
    assert lines[3] == "600"
    assert await machine.wait(UVM_ID, pid) == 0


async def test_terminal_interrupts(machine: Machine) -> None:
    streams = await machine.streams("stdin stdout")
    pid = await machine.external(
        "sh", "-c", "echo ready; exec sleep 1000", streams=streams, emulate_console=True
    )
    await streams.stdout.read_until(b"ready\r\n")
    await streams.stdin.send(b"\x03")
    assert await machine.wait(UVM_ID, pid) == KILLED


async def test_no_terminal_no_resize(machine: Machine) -> None:
    pid = await machine.external("sleep", "1000")
    with pytest.raises(GcsError, match=f"pid: {pid}, is not a tty and cannot be resized"):
        await machine.host.resize_console(UVM_ID, pid, 1, 1)


async def test_unknown_process(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        await machine.wait(UVM_ID, 99999)
    with pytest.raises(SystemNotFoundError):
        await machine.host.signal_process(UVM_ID, 99999, 9)
    with pytest.raises(SystemNotFoundError):
        await machine.host.resize_console(UVM_ID, 1, 1, 1)


async def test_runs_in_the_vm_whatever_container_is_named(machine: Machine) -> None:
    pid = await machine.execute("deadbeef", command_args=["true"], create_in_utility_vm=True)
    assert await machine.wait(UVM_ID, pid) == 0


@pytest.mark.parametrize(
    ("parameters", "hresult", "text"),
    [
        ({}, HResult.FAIL, "neither CommandArgs nor CommandLine"),
        ({"command_line": "  "}, HResult.FAIL, "neither CommandArgs nor CommandLine"),
        ({"command_line": "echo 'unclosed"}, HResult.FAIL, "unclosed"),
        ({"command_args": ["true", "a\0b"]}, HResult.INVALID_ARGUMENT, "NUL"),
        ({"command_args": ["true"], "working_directory": "/\0"}, HResult.INVALID_ARGUMENT, "NUL"),
        ({"command_args": ["true"], "environment": {"": "x"}}, HResult.INVALID_ARGUMENT, "name"),
        ({"command_args": ["true"], "environment": {"a=b": ""}}, HResult.INVALID_ARGUMENT, "a=b"),
        ({"command_args": ["true"], "environment": {"a": "\0"}}, HResult.INVALID_ARGUMENT, "NUL"),
    ],
)
async def test_what_is_no_command(
    machine: Machine, parameters: dict[str, Any], hresult: int, text: str
) -> None:
    streams = await machine.streams()
    with pytest.raises(GcsError, match=text) as caught:
        await machine.execute(UVM_ID, streams, **parameters)
    assert caught.value.hresult == hresult
    assert not streams.stdout.dialled


@pytest.mark.parametrize(
    ("arguments", "directory", "text"),
    [
        (["/nope/program"], "/", "/nope/program"),
        (["no-such-program"], "/", "PATH"),
        (["/tmp"], "/", "Permission denied"),
        ([""], "/", "not found"),
        (["true"], "/nope", "/nope"),
    ],
)
@pytest.mark.parametrize("terminal", [False, True])
async def test_what_cannot_be_run(
    machine: Machine, arguments: list[str], directory: str, text: str, terminal: bool
) -> None:
    streams = await machine.streams("stdin stdout")
    with pytest.raises(GcsError, match=text) as caught:
        await machine.external(
            *arguments, streams=streams, emulate_console=terminal, working_directory=directory
        )
    assert caught.value.hresult == HResult.FAIL
    assert await streams.stdin.read_all() == b""
    assert await streams.stdout.read_all() == b""


async def test_port_that_nobody_listens_on(machine: Machine) -> None:
    streams = await machine.streams("stdin stdout stderr")
    await streams.stderr.close()
    with pytest.raises(GcsError, match=str(streams.stderr.port)):
        await machine.external("sleep", "1000", streams=streams)
    assert await streams.stdout.read_all() == b""


async def test_many_at_once(machine: Machine) -> None:
    async def run(number: int) -> tuple[int, bytes]:
        streams = await machine.streams()
        script = f"echo {number}; exit {number}"
        pid = await machine.external("sh", "-c", script, streams=streams)
        return await machine.wait(UVM_ID, pid), await streams.stdout.read_all()

    results = await asyncio.gather(*(run(number) for number in range(100)))
    assert results == [(number, f"{number}\n".encode()) for number in range(100)]


async def test_orphans_are_reaped(machine: Machine) -> None:
    streams = await machine.streams()
    script = "for n in 1 2 3; do (read x </proc/self/stat; echo ${x%% *}; sleep 0.1) & done; exit"
    await machine.external("sh", "-c", script, streams=streams)
    orphans = [int(line) for line in (await streams.stdout.read_all()).split()]
    assert len(orphans) == 3
    for orphan in orphans:
        await ended(orphan)
    # The reaper takes all there are when any child ends.
    assert await machine.wait(UVM_ID, await machine.external("true")) == 0
    for orphan in orphans:
        with pytest.raises(ProcessLookupError):
            os.kill(orphan, 0)


async def test_what_a_worker_thread_starts_is_left_to_it(machine: Machine) -> None:
    import subprocess

    def run() -> int:
        return subprocess.run(["sh", "-c", "exit 6"], check=False).returncode

    assert await asyncio.gather(*(asyncio.to_thread(run) for _ in range(20))) == [6] * 20
