"""Files of one call of a container runtime."""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.linux.pidfd import ExitStatus
from gcs.protocol.errors import GcsError
from gcs.runtime.operation import Operation

if TYPE_CHECKING:
    from pathlib import Path

FAILED = ExitStatus(code=1)


def write_log(operation: Operation, *lines: str) -> None:
    with open(operation.log, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_nothing_is_left(tmp_path: Path) -> None:
    parent = os.fspath(tmp_path / "made/when/needed")
    with Operation(parent) as operation:
        assert (
            operation.write("process.json", b"{}")
            == f"{parent}/{os.listdir(parent)[0]}/process.json"
        )
        write_log(operation, "{}")
        operation.listen_for_console()
        os.write(operation.create_output(), b"text")
        assert operation.read_output() == b"text"
    assert os.listdir(parent) == []


def test_two_at_once_and_leftovers_of_the_dead(tmp_path: Path) -> None:
    parent = os.fspath(tmp_path)
    with Operation(parent) as first:
        number = int(first.log.split("/")[-2].split("-")[1])
        for later in range(1, 4):
            (tmp_path / f"{os.getpid()}-{number + later}").mkdir()
        with Operation(parent) as second:
            assert second.log not in (first.log, "")


def test_path_of_the_console_socket_is_short_whatever_the_container_is_called() -> None:
    with Operation("/var/run/gcsrunc") as operation:
        assert len(operation.listen_for_console()) < 60


def test_last_error_of_the_log_counts(tmp_path: Path) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        write_log(
            operation,
            '{"level":"error","msg":"first"}',
            '{"level":"fatal","msg":"second"}',
            '{"level":"info","msg":"chatter"}',
            "no JSON",
            '{"level":"error","msg":"cut',
        )
        assert operation.failure(FAILED) == "second"


def test_output_counts_when_the_log_says_nothing(tmp_path: Path) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        os.write(operation.create_output(), b" broken \xff\n")
        assert operation.failure(FAILED) == "broken \N{REPLACEMENT CHARACTER}"


def test_failure_without_a_word(tmp_path: Path) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        assert operation.failure(FAILED) == "exit status 1, no message"
        assert operation.failure(ExitStatus(code=0, signal=9)) == "killed by signal 9"


def test_failure_is_not_longer_than_a_response(tmp_path: Path) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        os.write(operation.create_output(), b"x" * 100_000)
        assert len(operation.failure(FAILED)) < 10_000


@pytest.mark.parametrize("content", ["", "abc", "1 2"])
def test_pid_that_is_none(tmp_path: Path, content: str) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        with pytest.raises(GcsError, match="wrote no process id"):
            operation.read_pid()
        operation.write("pid", content.encode())
        with pytest.raises(GcsError, match="wrote no process id"):
            operation.read_pid()


def test_terminal_is_received(tmp_path: Path) -> None:
    master, slave = os.openpty()
    with Operation(os.fspath(tmp_path)) as operation:
        path = operation.listen_for_console()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
            connection.sendmsg([b"/dev/ptmx"], [rights])
        received = operation.receive_console()
    assert os.fstat(received).st_rdev == os.fstat(master).st_rdev
    assert not os.get_inheritable(received)
    for descriptor in (master, slave, received):
        os.close(descriptor)


def test_terminal_that_does_not_come(tmp_path: Path) -> None:
    with Operation(os.fspath(tmp_path)) as operation:
        path = operation.listen_for_console()
        with pytest.raises(GcsError, match="sent no terminal"):
            operation.receive_console()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.send(b"nothing")
            with pytest.raises(GcsError, match="sent no terminal"):
                operation.receive_console()
