"""vsockexec with a host on unix sockets (spec 7.2)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.functional.init_support import REPOSITORY, Port, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAIN = (
    f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
    "from gcs.init.vsockexec import main; raise SystemExit(main())"
)
JSON_LINE = '{{"level":"info","msg":"{}"}}\n'


class Host:
    """Ports of a host, and programs started by vsockexec."""

    def __init__(self, directory: Path) -> None:
        self._prefix = directory / "port"
        self._ports: list[Port] = []
        self._processes: list[subprocess.Popen[str]] = []

    def listen(self, number: int) -> Port:
        self._ports.append(Port(self._prefix, number))
        return self._ports[-1]

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, transport: bool = True
    ) -> subprocess.Popen[str]:
        """Start vsockexec with these arguments; its own streams are pipes."""
        options = ["-t", f"unix:{self._prefix}"] if transport else []
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", MAIN, *options, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "MARK": "1"},
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        for port in self._ports:
            port.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def read_line(connection: socket.socket) -> bytes:
    """Bytes up to and with a line end, and not one more."""
    data = b""
    while not data.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, f"the stream ended after {data!r}"
        data += byte
    return data


def test_three_streams_on_three_ports(host: Host) -> None:
    ports = [host.listen(number) for number in (5, 6, 7)]
    script = "cat; echo to-stderr >&2; exit 3"
    process = host.start("-i", "5", "-o", "6", "-e7", "--", "sh", "-c", script)
    stdin, stdout, stderr = (port.accept() for port in ports)
    with stdin, stdout, stderr:
        stdin.sendall(b"from the host")
        stdin.shutdown(socket.SHUT_WR)
        assert read_all(stdout) == b"from the host"
        assert read_all(stderr) == b"to-stderr\n"
    assert finish(process) == (3, "", "")


def test_same_port_twice_is_one_connection(host: Host) -> None:
    port = host.listen(109)
    process = host.start("-o", "109", "-e", "109", "sh", "-c", "echo one; echo two >&2")
    with port.accept() as connection:
        assert read_all(connection) == b"one\ntwo\n"
    assert finish(process)[0] == 0
    port.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        port.listener.accept()


def test_program_has_no_other_descriptors_and_blocking_ones(host: Host) -> None:
    port = host.listen(1)
    script = "ls /proc/self/fd; grep ^flags /proc/self/fdinfo/1; env"
    process = host.start("-o", "1", "sh", "-c", script)
    with port.accept() as connection:
        lines = read_all(connection).decode().splitlines()
    assert finish(process)[0] == 0
    assert lines[:4] == ["0", "1", "2", "3"]
    assert not int(lines[4].split()[1], 8) & os.O_NONBLOCK
    own = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {line.split("=")[0] for line in lines[5:]} - own == {"PATH", "MARK"}


def test_port_without_listener(host: Host) -> None:
    listening = host.listen(1)
    process = host.start("-o", "1", "-e", "2", "sh", "-c", "echo never")
    with listening.accept() as connection:
        assert read_all(connection) == b""
    status, out, err = finish(process)
    assert (status, out) == (1, "")
    assert err.startswith("vsockexec: connect: port 2: ")


def test_vsock_is_the_default(host: Host) -> None:
    """There is no host behind the vsock of this machine, so that only the refusal is seen."""
    status, _, err = finish(host.start("-e", "65000", "true", transport=False))
    assert status == 1
    assert err.startswith("vsockexec: connect: port 65000: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing program"),
        (["-e", "1"], "missing program"),
        (["-x", "true"], "unknown option -x"),
        (["-e", "word", "true"], "invalid port 'word'"),
        (["-r", "true"], "-r needs -o or -e"),
        (["-r", "-i", "5", "true"], "-r needs -o or -e"),
    ],
)
def test_wrong_usage(host: Host, arguments: list[str], message: str) -> None:
    status, _, err = finish(host.start(*arguments))
    assert status == 1
    assert err.splitlines()[0] == f"vsockexec: {message}"
    assert err.splitlines()[1].startswith("usage: vsockexec [-r] ")


def test_program_that_does_not_exist_is_told_to_the_host(host: Host) -> None:
    port = host.listen(2)
    process = host.start("-e", "2", "nonsense")
    with port.accept() as connection:
        assert read_all(connection) == b"vsockexec: nonsense: exec: No such file or directory\n"
    assert finish(process) == (1, "", "")


@pytest.mark.parametrize("relay", [[], ["-r"]])
@pytest.mark.parametrize(("script", "status"), [("exit 42", 42), ("kill -9 $$", 137)])
def test_status_is_that_of_the_program(
    host: Host, relay: list[str], script: str, status: int
) -> None:
    port = host.listen(3)
    process = host.start(*relay, "-e", "3", "sh", "-c", script)
    with port.accept() as connection:
        assert read_all(connection) == b""
    code = finish(process)[0]
    # Without relay the program is the process itself.
    assert code == (status if relay or status < 128 else -signal.SIGKILL)


def test_relay_merges_both_outputs_on_the_port_of_stderr(host: Host) -> None:
    port = host.listen(9)
    process = host.start("-r", "-o", "8", "-e", "9", "sh", "-c", "echo one; echo two >&2; echo 3")
    with port.accept() as connection:
        assert read_all(connection) == b"one\ntwo\n3\n"
    assert finish(process) == (0, "", "")


def test_relay_leaves_an_output_without_port_alone(host: Host) -> None:
    port = host.listen(9)
    process = host.start("-r", "-e", "9", "sh", "-c", "echo out; echo err >&2")
    with port.accept() as connection:
        assert read_all(connection) == b"err\n"
    assert finish(process) == (0, "out\n", "")


def test_relay_reports_a_program_that_does_not_exist(host: Host) -> None:
    port = host.listen(9)
    process = host.start("-r", "-e", "9", "nonsense")
    with port.accept() as connection:
        assert read_all(connection) == b"vsockexec: nonsense: exec: No such file or directory\n"
    assert finish(process)[0] == 127


def test_relay_redials_after_a_hang_up_without_any_output(host: Host) -> None:
    port = host.listen(109)
    process = host.start("-r", "-e", "109", "cat", stdin=subprocess.PIPE)
    for _ in range(5):
        port.accept().close()
    with port.accept() as connection:
        # The program is silent all the time; now it ends.
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert read_all(connection) == b""
    assert finish(process) == (0, "", "")


def test_relay_waits_for_a_host(host: Host, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    process = host.start("-r", "-e", "109", "sh", "-c", f"echo early >&2; echo x > {started}")
    assert started.read_text() == "x\n"
    with host.listen(109).accept() as connection:
        assert read_all(connection) == b"early\n"
    assert finish(process) == (0, "", "")


def test_relay_resends_what_the_first_host_did_not_take(host: Host) -> None:
    """A host that stops reading in the middle of the stream, and another one that goes on."""
    port = host.listen(109)
    count = 20_000
    script = f"seq -f '{JSON_LINE.format('%.0f')[:-1]}' {count} >&2"
    process = host.start("-r", "-e", "109", "sh", "-c", script)
    with port.accept() as first:
        received = [read_line(first) for _ in range(5)]
    with port.accept() as second:
        rest = read_all(second).decode()
    assert finish(process)[0] == 0
    assert received == [JSON_LINE.format(number).encode() for number in range(1, 6)]
    # What the kernel had taken for the first host is lost; the rest is there, from a whole line on.
    lines = rest.splitlines(keepends=True)
    missing = count - len(lines)
    assert missing < count // 2
    assert lines == [JSON_LINE.format(number) for number in range(missing + 1, count + 1)]


def test_program_is_not_blocked_while_the_host_is_away(host: Host, tmp_path: Path) -> None:
    """Ten times what pipe and relay hold; then a host that gets the newest lines, all whole."""
    done = tmp_path / "done"
    line = JSON_LINE.format("%.0f")[:-1]
    os.mkfifo(done)
    script = f"seq -f '{line}' 400000 >&2; echo x > {done}; read line; exit 0"
    process = host.start("-r", "-e", "109", "sh", "-c", script, stdin=subprocess.PIPE)
    assert done.read_text() == "x\n"
    port = host.listen(109)
    with port.accept() as connection:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        lines = read_all(connection).decode().splitlines(keepends=True)
    assert finish(process)[0] == 0
    first = 400_000 - len(lines) + 1
    assert first > 1
    assert lines == [JSON_LINE.format(number) for number in range(first, 400_001)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_relay_passes_signals_on(host: Host, number: signal.Signals) -> None:
    port = host.listen(109)
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name} >&2; exit 5' {name}; echo ready >&2; while :; do read x; done"
    process = host.start("-r", "-e", "109", "sh", "-c", script, stdin=subprocess.PIPE)
    with port.accept() as connection:
        assert read_line(connection) == b"ready\n"
        process.send_signal(number)
        assert read_all(connection) == f"got {name}\n".encode()
    assert finish(process)[0] == 5


def test_child_that_holds_the_output_does_not_keep_the_relay(host: Host) -> None:
    port = host.listen(109)
    process = host.start(
        "-r", "-e", "109", "sh", "-c", "sleep 1000 > /dev/null & echo $! >&2; exit 6"
    )
    with port.accept() as connection:
        orphan = int(read_all(connection))
    try:
        assert finish(process)[0] == 6
    finally:
        os.kill(orphan, signal.SIGKILL)
