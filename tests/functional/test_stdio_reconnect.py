"""Streams of real processes whose host goes away and comes back (spec 1.10, 1.11, 2.9)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux import tty
from gcs.stdio import ChildDescriptors, PipeRelay, Reconnect, TeeLog, TtyRelay
from tests.support.stdio import Process, open_descriptors, open_tee, shell
from tests.support.stdio_ports import STDERR, STDIN, STDOUT, Connection, Ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

LINE = 16
LINES = 50 * (1 << 20) // LINE


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = open_descriptors()
    yield
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            # A connection is closed when the loop has seen that the host has closed it.
            while open_descriptors() != before:  # noqa: ASYNC110
                await asyncio.sleep(0)
    assert open_descriptors() == before


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    ports = Ports(tmp_path, (STDIN, STDOUT, STDERR))
    yield ports
    ports.vanish()


class Relayed:
    """A process with pipes, and the host's first connections to it."""

    def __init__(self, ports: Ports, script: str) -> None:
        self._ports = ports
        self.relay = PipeRelay.create("process")
        self.process = shell(script, self.relay.child)
        self.stdin: Connection
        self.stdout: Connection
        self.stderr: Connection

    async def attach(self, tee: TeeLog | None = None) -> None:
        sockets = await self._ports.dialled()
        reconnect = Reconnect(self._ports.transport, self._ports.numbers)
        self.relay.attach(sockets, reconnect=reconnect, tee=tee)
        self.stdin = await self._ports.accept(STDIN)
        self.stdout = await self._ports.accept(STDOUT)
        self.stderr = await self._ports.accept(STDERR)

    async def finish(self) -> None:
        """The exit of the process as the agent handles it, with a host that has read all."""
        assert await self.process.exit_code() == 0
        self.stdin.close()
        self.stderr.close()
        await self.relay.finish()
        self.relay.close()


@pytest.fixture
async def start(ports: Ports) -> AsyncIterator[Callable[[str], Relayed]]:
    """Starts a shell, and leaves nothing of it when the test fails."""
    started = []

    def start(script: str) -> Relayed:
        relayed = Relayed(ports, script)
        started.append(relayed)
        return relayed

    yield start
    for relayed in started:
        relayed.relay.close()
        await relayed.process.end()


def offset_of(part: bytes) -> int:
    """Where in the numbered lines a part begins."""
    start = part.index(b"\n") + 1
    return int(part[start : start + LINE - 1]) * LINE - start


def numbered(first: int, last: int) -> bytes:
    return b"".join(b"%015d\n" % number for number in range(first, last))


async def test_ten_losses_leave_no_gap_and_no_trace_in_the_log(
    start: Callable[[str], Relayed], ports: Ports, tmp_path: Path
) -> None:
    relayed = start(f"seq -f %015.0f 0 {LINES - 1}")
    await relayed.attach(open_tee(tmp_path / "log"))
    expected = numbered(0, LINES)
    end = 0
    connection = relayed.stdout
    for loss in range(11):
        if loss < 10:
            part = await connection.receive_exactly(3_000_000 + 12_345 * loss)
            connection.close()
            connection = await ports.accept(STDOUT)
        else:
            part = await connection.receive_all()
        begin = offset_of(part)
        assert begin <= end, f"gap of {begin - end} bytes after loss {loss}"
        assert part == expected[begin : begin + len(part)]
        end = max(end, begin + len(part))
    assert end == len(expected)
    await relayed.finish()
    assert (tmp_path / "log").read_bytes() == expected


async def test_a_loss_while_the_process_is_silent_is_noticed(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("echo before; read line; echo after $line")
    await relayed.attach()
    assert await relayed.stdout.receive_exactly(7) == b"before\n"
    relayed.stdout.close()
    again = await ports.accept(STDOUT)
    assert await again.receive_exactly(7) == b"before\n"
    await relayed.stdin.send(b"all\n")
    assert await again.receive_all() == b"after all\n"
    await relayed.finish()


async def test_a_host_that_is_away_holds_the_output_and_nothing_else(
    start: Callable[[str], Relayed], ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    relayed = start("seq -f %015.0f 0 299999 & echo running >&2; wait")
    await relayed.attach()
    assert await relayed.stderr.receive_exactly(8) == b"running\n"
    received = await relayed.stdout.receive_exactly(500_000)
    # Its port alone: the process goes on talking on stderr.
    relayed.stdout.close()
    ports.vanish()
    await ports.transport.dialled(STDOUT, 3)
    assert relayed.process.running()
    ports.listen()
    again = await ports.accept(STDOUT)
    rest = await again.receive_all()
    expected = numbered(0, 300_000)
    begin = offset_of(rest)
    assert begin <= len(received)
    assert received + rest[len(received) - begin :] == expected
    await relayed.finish()
    lost, back = (text for text in caplog.messages if "stdout" in text)
    assert lost.startswith("process stdout: connection to the host lost, dialling again")
    assert back == "process stdout: connected to the host again"


async def test_an_exit_while_the_host_is_away_is_reported_with_all_output_delivered(
    start: Callable[[str], Relayed],
    ports: Ports,
) -> None:
    relayed = start("read line; seq -f %015.0f 0 9999; echo error >&2")
    await relayed.attach()
    await relayed.stdin.send(b"go\n")
    relayed.stdout.close()
    relayed.stderr.close()
    ports.vanish()
    assert await relayed.process.exit_code() == 0
    finish = asyncio.create_task(relayed.relay.finish())
    await ports.transport.dialled(STDOUT, 2)
    assert not finish.done()
    ports.listen()
    again = await ports.accept(STDOUT)
    assert (await again.receive_all())[-160_000:] == numbered(0, 10_000)
    relayed.stderr = await ports.accept(STDERR)
    assert await relayed.stderr.receive_all() == b"error\n"
    await finish
    relayed.stdin.close()
    relayed.relay.close()


async def test_an_exit_is_reported_though_the_host_stays_away(
    start: Callable[[str], Relayed], ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    relayed = start("read line; echo last words")
    await relayed.attach()
    relayed.stdout.close()
    ports.vanish()
    await relayed.stdin.send(b"go\n")
    assert await relayed.process.exit_code() == 0
    relayed.stderr.close()
    relayed.stdin.close()
    await relayed.relay.finish(stall_seconds=0.05)
    relayed.relay.close()
    assert any("process stdout: the host " in text for text in caplog.messages)


async def test_stopping_lets_a_process_go_on_that_waits_for_the_host(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("seq -f %015.0f 0 299999; read line")
    await relayed.attach()
    await relayed.stdout.receive_exactly(1000)
    relayed.stdout.close()
    relayed.stdin.close()
    ports.vanish()
    await ports.transport.dialled(STDIN, 2)
    await ports.transport.dialled(STDOUT, 2)
    assert relayed.process.running()
    relayed.relay.stop_reconnecting()
    assert await relayed.process.exit_code() == 1  # of `read`, at EOF
    await relayed.relay.finish()
    relayed.stderr.close()
    relayed.relay.close()


async def test_input_goes_on_after_a_loss(start: Callable[[str], Relayed], ports: Ports) -> None:
    relayed = start("cat")
    await relayed.attach()
    await relayed.stdin.send(b"one\n")
    assert await relayed.stdout.receive_exactly(4) == b"one\n"
    relayed.stdin.close()
    ports.vanish()
    await ports.transport.dialled(STDIN, 2)
    ports.listen()
    again = await ports.accept(STDIN)
    await again.send(b"two\n")
    assert await relayed.stdout.receive_exactly(4) == b"two\n"
    await again.send(b"three\n")
    again.half_close()
    assert await relayed.stdout.receive_all() == b"three\n"
    await relayed.finish()
    again.close()


async def test_a_half_close_is_the_end_of_the_input(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("cat; echo eof; read line || echo end")
    await relayed.attach()
    await relayed.stdin.send(b"text\n")
    relayed.stdin.half_close()
    assert await relayed.stdout.receive_all() == b"text\neof\nend\n"
    await relayed.finish()
    assert ports.transport.dials[STDIN] == 1


async def test_a_process_that_has_closed_its_input_gets_no_other(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("exec <&-; echo closed; exec sleep 1000")
    await relayed.attach()
    assert await relayed.stdout.receive_exactly(7) == b"closed\n"
    with pytest.raises(BrokenPipeError):
        await relayed.stdin.send(bytes(8 << 20))
    relayed.stdin.close()
    relayed.stdout.close()
    relayed.stdout = await ports.accept(STDOUT)
    assert ports.transport.dials[STDIN] == 1
    await relayed.process.end()
    await asyncio.gather(relayed.relay.finish(), relayed.stdout.receive_all())
    relayed.stderr.close()
    relayed.relay.close()


async def test_a_host_that_dies_with_the_last_output_unread_gets_it_again(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("echo last words")
    await relayed.attach()
    assert await relayed.process.exit_code() == 0
    await relayed.relay.finish()
    relayed.stdout.close()
    again = await ports.accept(STDOUT)
    assert await again.receive_all() == b"last words\n"
    relayed.stdin.close()
    relayed.stderr.close()
    relayed.relay.close()


async def test_the_whole_vm_losing_its_host_repeats_the_end_that_nobody_confirmed(
    start: Callable[[str], Relayed],
    ports: Ports,
) -> None:
    relayed = start("echo last words")
    await relayed.attach()
    assert await relayed.process.exit_code() == 0
    await relayed.relay.finish()
    assert await relayed.stdout.receive_exactly(11) == b"last words\n"
    relayed.relay.connection_lost()
    relayed.stdout.close()
    again = await ports.accept(STDOUT)
    relayed.stderr.close()
    other = await ports.accept(STDERR)
    assert await again.receive_all() == b"last words\n"
    assert await other.receive_all() == b""
    relayed.stdin.close()
    relayed.relay.close()


async def test_closing_ends_everything_while_the_host_is_away(
    start: Callable[[str], Relayed], ports: Ports
) -> None:
    relayed = start("seq -f %015.0f 0 299999; echo after")
    await relayed.attach()
    await relayed.stdout.receive_exactly(1000)
    for connection in (relayed.stdin, relayed.stdout, relayed.stderr):
        connection.close()
    ports.vanish()
    for port in (STDIN, STDOUT, STDERR):
        await ports.transport.dialled(port, 2)
    relayed.relay.close()
    assert await relayed.process.exit_code() != 0


class Terminal:
    """A shell on a terminal, and the host's first connections to it."""

    def __init__(self, ports: Ports, script: str) -> None:
        self._ports = ports
        master, slave = tty.open_pair()
        self.relay = TtyRelay("process", master)
        child = ChildDescriptors(os.dup(slave), os.dup(slave), slave)
        self.process = Process(["setsid", "--ctty", "sh", "-c", script], child)

    async def attach(self, tee: TeeLog | None = None) -> tuple[Connection, Connection]:
        sockets = await self._ports.dialled()
        reconnect = Reconnect(self._ports.transport, self._ports.numbers)
        self.relay.attach(sockets, reconnect=reconnect, tee=tee)
        return await self._ports.accept(STDIN), await self._ports.accept(STDOUT)


async def test_a_terminal_comes_back(tmp_path: Path) -> None:
    ports = Ports(tmp_path, (STDIN, STDOUT))
    terminal = Terminal(ports, "stty -echo; while read line; do echo got $line; done")
    stdin, stdout = await terminal.attach(open_tee(tmp_path / "log"))
    await stdin.send(b"one\n")
    first = await stdout.receive_exactly(9)
    while b"got one\r\n" not in first:
        first += await stdout.receive()
    stdin.close()
    stdout.close()
    stdin, stdout = await ports.accept(STDIN), await ports.accept(STDOUT)
    assert await stdout.receive_exactly(len(first)) == first
    await stdin.send(b"two\n\x04")
    received = asyncio.create_task(stdout.receive_all())
    assert await terminal.process.exit_code() == 0
    await terminal.relay.finish()
    assert await received == b"got two\r\n"
    stdin.close()
    terminal.relay.close()
    ports.vanish()
    assert (tmp_path / "log").read_bytes() == first + b"got two\r\n"
