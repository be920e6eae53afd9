"""Command lines, and the streams between a person's descriptors and a process."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from uvm.boot import BootOptions
from uvm.cli import main
from uvm.cli.containers import table
from uvm.cli.options import boot_options, build_parser, parse_signal, split_command
from uvm.cli.process import process_options, remote_status
from uvm.cli.relay import InputRelay, OutputRelay
from uvm.errors import EXIT_FAILURE, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, UvmError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_vms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No VM of anybody else is seen."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_options_end_at_the_first_dashes() -> None:
    assert split_command(["-i", "fs", "--", "sh", "--", "-c"]) == (["-i", "fs"], ["sh", "--", "-c"])
    assert split_command(["fs"]) == (["fs"], [])


def test_the_options_of_a_run() -> None:
    line = ["run", "-it", "-e", "A=1", "--memory", "256", "--cpus", "2", "-u", "web", "fs.tar"]
    arguments = build_parser().parse_args(line)
    assert (arguments.interactive, arguments.tty, arguments.rootfs) == (True, True, "fs.tar")
    options = boot_options(arguments)
    assert options == BootOptions(memory_mib=256, cpus=2)


@pytest.mark.parametrize("text", ["9", "KILL", "kill", "SIGKILL"])
def test_signals_by_number_and_by_name(text: str) -> None:
    assert parse_signal(text) == signal.SIGKILL


@pytest.mark.parametrize("text", ["0", "999", "SIGNAL", ""])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_signal(text)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ('exec: "x": executable file not found in $PATH', EXIT_NOT_FOUND),
        ("program 'x' not found in PATH /bin:/sbin", EXIT_NOT_FOUND),
        ('exec: "/x": stat /x: no such file or directory', EXIT_NOT_FOUND),
        ('exec: "/etc/passwd": permission denied', EXIT_NOT_EXECUTABLE),
        ("out of memory", EXIT_FAILURE),
    ],
)
def test_exit_status_of_programs_that_can_not_run(message: str, status: int) -> None:
    assert remote_status(message) == status


def test_environment_from_the_command_line_and_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_HERE", "x y")
    monkeypatch.delenv("NOT_HERE", raising=False)
    line = ["run", "-e", "A=b=c", "-e", "FROM_HERE", "-e", "NOT_HERE"]
    options = process_options(build_parser().parse_args(line), ["env"])
    assert options.environment == ("A=b=c", "FROM_HERE=x y")
    assert options.terminal_size is None


def test_a_relative_working_directory_is_refused() -> None:
    with pytest.raises(UvmError, match="not an absolute path"):
        process_options(build_parser().parse_args(["run", "-w", "tmp"]), [])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["ps", "nosuch"], "no VM named nosuch is running"),
        (["stacks"], "no VM is running; `uvm boot` starts one"),
        (["exec", "x"], "nothing to run"),
        (["run", "--detach"], "--detach needs --name"),
        (["run", "--network", "none", "-p", "1:1"], "-p needs --network user"),
        (["run", "--network", "tap=nosuchtap"], "there is no tap device nosuchtap"),
        (["run", "--image-dir", "/nonexistent"], "run `make all`"),
        (["run", "/nonexistent/rootfs", "--kernel", "/dev/null"], "/dev/null does not exist"),
    ],
)
def test_our_own_failures_are_one_line(
    line: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == EXIT_FAILURE
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("uvm: ")
    assert text in output.err
    assert output.err.count("\n") == 1


def test_no_vms_are_no_rows(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ps"]) == 0
    assert capfd.readouterr().out.split() == ["VM", "CONTAINER", "PID", "PORTS", "COMMAND"]
    assert main(["ps", "--json"]) == 0
    assert capfd.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["run", "--nonsense"], "unrecognized arguments"),
        (["run", "-p", "80"], "'80' is not of the form [HOSTIP:]HOSTPORT:PORT"),
        (["run", "--network", "user,mac=x"], "'x' is no hardware address"),
        (["boot", "--network-ports", "33"], "'33' is no number from 0 to 32"),
    ],
)
def test_a_wrong_command_line_is_our_own_failure(
    line: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == EXIT_FAILURE
    assert text in capfd.readouterr().err


# --- streams --------------------------------------------------------------------------------


def read_all(descriptor: int) -> bytes:
    data = b""
    while chunk := os.read(descriptor, 1 << 16):
        data += chunk
    os.close(descriptor)
    return data


async def test_input_is_copied_and_half_closed() -> None:
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    relay = InputRelay(read, ours)
    relay.start()
    data = os.urandom(300_000)

    def feed() -> None:
        with os.fdopen(write, "wb") as file:
            file.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    received = b""
    while chunk := await asyncio.to_thread(guest.recv, 1 << 16):
        received += chunk
    feeder.join()
    assert received == data
    guest.sendall(b"still open")
    assert ours.recv(100) == b"still open"
    relay.stop()
    os.close(read)
    ours.close()
    guest.close()


async def test_input_that_never_ends_does_not_hold_up_the_end() -> None:
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    relay = InputRelay(read, ours)
    relay.start()
    relay.stop()
    os.write(write, b"for somebody else")
    assert os.read(read, 100) == b"for somebody else"
    for descriptor in (read, write):
        os.close(descriptor)
    ours.close()
    guest.close()


async def test_a_guest_that_reads_no_more_ends_the_input() -> None:
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    relay = InputRelay(read, ours)
    relay.start()
    guest.close()
    os.write(write, b"x")
    relay.stop()
    for descriptor in (read, write):
        os.close(descriptor)
    ours.close()


async def test_output_is_copied_to_its_end_and_the_stream_closed() -> None:
    told = threading.Event()
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    relay = OutputRelay(ours, write, told.set)
    relay.start()
    collected = asyncio.create_task(asyncio.to_thread(read_all, read))
    data = os.urandom(300_000)
    await asyncio.to_thread(guest.sendall, data)
    guest.shutdown(socket.SHUT_WR)
    await relay.drain(60)
    os.close(write)
    assert await collected == data
    # The guest waits for this before it reports that the process ended.
    assert guest.recv(1) == b""
    ours.close()
    guest.close()


async def test_output_held_open_by_somebody_else_is_given_up() -> None:
    told = threading.Event()
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    relay = OutputRelay(ours, write, told.set)
    relay.start()
    guest.sendall(b"last words")
    assert await asyncio.to_thread(os.read, read, 100) == b"last words"
    await relay.drain(0.01)
    guest.close()
    await relay.drain(60)
    for descriptor in (read, write):
        os.close(descriptor)
    ours.close()


async def test_output_that_nobody_reads_is_told_and_dropped() -> None:
    told = threading.Event()
    ours, guest = socket.socketpair()
    read, write = os.pipe()
    os.close(read)
    relay = OutputRelay(ours, write, told.set)
    relay.start()
    await asyncio.to_thread(guest.sendall, b"x" * 1_000_000)
    assert told.is_set()
    guest.shutdown(socket.SHUT_WR)
    await relay.drain(60)
    os.close(write)
    ours.close()
    guest.close()


def test_the_table_of_statistics() -> None:
    """What an agent leaves out is zero; the kernel's greatest number is no limit."""
    memory = {"usage": 3 << 20, "max": 4 << 20, "limit": 64 << 20}
    statistics: dict[str, dict[str, Any]] = {
        "a" * 64: {
            "cpu": {"usage": {"total": 1_250_000_000}},
            "memory": {"usage": memory},
            "pids": {"current": 12},
            "memory_oom_control": {"oom_kill": 1},
        },
        "b" * 64: {"memory": {"usage": {"limit": (1 << 63) - 4096}}},
    }
    assert [" ".join(line.split()) for line in table(statistics).splitlines()] == [
        "CONTAINER CPU MEMORY PEAK LIMIT PIDS OOM KILLS",
        f"{'a' * 12} 1.25 s 3.0 MiB 4.0 MiB 64.0 MiB 12 1",
        f"{'b' * 12} 0.00 s 0.0 MiB 0.0 MiB - 0 0",
    ]


def test_pause_resume_and_stats_need_a_vm(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("pause", "resume", "stats"):
        assert main([command, "--container", "abc"]) == EXIT_FAILURE
        assert "no VM is running" in capsys.readouterr().err
