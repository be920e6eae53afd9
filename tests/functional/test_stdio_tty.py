"""TtyRelay between real processes on a terminal and a host on socket pairs (spec 4.9)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux import tty
from gcs.stdio import ChildDescriptors, TtyRelay
from tests.support.stdio import Host, Process, open_descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host("in out")
    yield host
    host.close_all()


class Terminals:
    """Starts shells with a terminal each, and leaves nothing of them behind."""

    def __init__(self) -> None:
        self._started: list[tuple[TtyRelay, Process]] = []

    def start(self, script: str, **environment: str) -> tuple[TtyRelay, Process]:
        """A shell in a session of its own, with a new terminal of 24 by 80."""
        master, slave = tty.open_pair()
        relay = TtyRelay("process", master)
        relay.resize(24, 80)
        child = ChildDescriptors(os.dup(slave), os.dup(slave), slave)
        process = Process(["setsid", "--ctty", "sh", "-c", script], child, environment)
        self._started.append((relay, process))
        return relay, process

    async def close(self) -> None:
        for relay, process in self._started:
            relay.close()
            await process.end()


@pytest.fixture
async def terminals() -> AsyncIterator[Terminals]:
    terminals = Terminals()
    yield terminals
    await terminals.close()


async def finish(relay: TtyRelay, process: Process, host: Host) -> bytes:
    """The exit of the process as the agent handles it; returns the rest of the output."""
    rest = asyncio.create_task(host.receive_all("out"))
    assert await process.exit_code() == 0
    await relay.finish()
    return await rest


async def test_what_is_typed_is_echoed_and_answered(terminals: Terminals, host: Host) -> None:
    relay, process = terminals.start("cat")
    relay.attach(host.sockets)
    await host.send(b"hello\n")
    expected = b"hello\r\nhello\r\n"
    assert await host.receive_exactly("out", len(expected)) == expected
    await host.send(b"\x04")
    assert await finish(relay, process, host) == b""


async def test_a_resize_is_seen_by_the_process(terminals: Terminals, host: Host) -> None:
    relay, process = terminals.start(
        "trap 'stty size; exit 0' WINCH; stty size; while :; do read line; done"
    )
    relay.attach(host.sockets)
    assert await host.receive_until("out", b"\n") == b"24 80\r\n"
    relay.resize(50, 132)
    await host.send(b"\n")  # a shell runs its traps when the command at hand has ended
    # The echo of the line's end comes before the size, or after it.
    assert b"50 132\r\n" in await finish(relay, process, host)
    relay.resize(1, 1)


async def test_a_size_out_of_range_is_refused(terminals: Terminals, host: Host) -> None:
    relay, process = terminals.start("read line")
    relay.attach(host.sockets)
    with pytest.raises(ValueError, match="70000 columns by 24 rows is out of range"):
        relay.resize(24, 70_000)
    await host.send(b"\n")
    await finish(relay, process, host)


async def test_all_output_arrives_though_the_process_exits_at_once(
    terminals: Terminals, host: Host, tmp_path: Path
) -> None:
    data = os.urandom(150_000).hex().encode()
    (tmp_path / "data").write_bytes(data)
    relay, process = terminals.start("stty raw; cat $DATA", DATA=str(tmp_path / "data"))
    relay.attach(host.sockets)
    assert await finish(relay, process, host) == data


async def test_input_passes_byte_exact_in_raw_mode(terminals: Terminals, host: Host) -> None:
    data = os.urandom(300_000)
    relay, process = terminals.start("stty raw -echo; echo ready; head -c 300000")
    relay.attach(host.sockets)
    assert await host.receive_until("out", b"ready\n") == b"ready\n"
    received, _ = await asyncio.gather(host.receive_exactly("out", len(data)), host.send(data))
    assert received == data
    assert await finish(relay, process, host) == b""


async def test_eof_of_the_host_is_not_eof_of_the_terminal(terminals: Terminals, host: Host) -> None:
    relay, process = terminals.start("exec cat")
    relay.attach(host.sockets)
    await host.send(b"text")
    host.end_input()
    assert await host.receive_until("out", b"text") == b"text"
    assert process.running()
    process.kill()
    assert await process.exit_code() == -9
    await asyncio.gather(relay.finish(), host.receive_all("out"))


async def test_a_terminal_nobody_reads_does_not_stop_the_process(terminals: Terminals) -> None:
    relay, process = terminals.start("head -c 1000000 /dev/zero; test -t 1")
    relay.attach(Host("").sockets)
    assert await process.exit_code() == 0
    await relay.finish()


async def test_a_lost_host_does_not_stop_the_process(terminals: Terminals, host: Host) -> None:
    relay, process = terminals.start("head -c 1000000 /dev/zero; read line; test $line = go")
    relay.attach(host.sockets)
    await host.receive_exactly("out", 1000)
    host.close("out")
    await host.send(b"go\n")
    assert await process.exit_code() == 0
    await relay.finish()


async def test_a_background_child_is_hung_up_after_the_drain_time(
    terminals: Terminals, host: Host, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "result")
    script = (
        "(trap 'echo hung up >$DIR/result; exit' HUP; echo ready; while :; do sleep 0.01; done) &"
        " read line"
    )
    relay, process = terminals.start(script, DIR=str(tmp_path))
    relay.attach(host.sockets)
    assert await host.receive_until("out", b"\n") == b"ready\r\n"
    await host.send(b"\n")
    rest = asyncio.create_task(host.receive_all("out"))
    result = asyncio.create_task(asyncio.to_thread((tmp_path / "result").read_text))
    assert await process.exit_code() == 0
    await relay.finish(drain_seconds=0.05)
    await rest
    assert await result == "hung up\n"


async def test_closing_before_the_start_leaves_nothing_open() -> None:
    master, slave = tty.open_pair()
    os.close(slave)
    relay = TtyRelay("process", master)
    relay.close()
    relay.close()
    relay.resize(10, 10)
