"""The file that gets a copy of the output, on real file systems."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from gcs.stdio import PipeRelay, TeeLog
from gcs.stdio.tee_log import BACKLOG_LIMIT
from tests.support.stdio import Host, Process, open_descriptors, open_tee, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host("out err")
    yield host
    host.close_all()


@pytest.fixture
async def relay() -> AsyncIterator[PipeRelay]:
    relay = PipeRelay.create("process")
    yield relay
    relay.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


async def test_the_file_has_what_the_host_gets(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    process = Process(["cat", str(tmp_path / "data")], relay.child)
    relay.attach(host.sockets, tee=open_tee(log))
    received = asyncio.create_task(host.receive_all("out"))
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()
    assert log.read_bytes() == data
    assert await received == data


async def test_both_streams_go_to_one_file_in_order(relay: PipeRelay, tmp_path: Path) -> None:
    host = Host()
    process = shell("echo one; read line; echo two >&2; read line; echo three", relay.child)
    relay.attach(host.sockets, tee=open_tee(tmp_path / "log"))
    assert await host.receive_until("out", b"\n") == b"one\n"
    await host.send(b"\n")
    assert await host.receive_until("err", b"\n") == b"two\n"
    await host.send(b"\n")
    assert await host.receive_all("out") == b"three\n"
    assert await process.exit_code() == 0
    host.close_all()
    await relay.finish()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


async def test_a_file_that_exists_is_continued(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    process = shell("echo now", relay.child)
    relay.attach(host.sockets, tee=open_tee(log))
    host.close("err")
    assert await host.receive_all("out") == b"now\n"
    assert await process.exit_code() == 0
    await relay.finish()
    assert log.read_text() == "earlier\nnow\n"


async def test_the_file_is_complete_though_the_host_is_gone(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    process = Process(["cat", str(tmp_path / "data")], relay.child)
    relay.attach(host.sockets, tee=open_tee(log))
    await host.receive_exactly("out", 1000)
    host.close_all()
    assert await process.exit_code() == 0
    await relay.finish()
    assert log.read_bytes() == data


async def test_output_nobody_wants_is_in_the_file(relay: PipeRelay, tmp_path: Path) -> None:
    process = shell("echo text", relay.child)
    relay.attach(Host("").sockets, tee=open_tee(tmp_path / "log"))
    assert await process.exit_code() == 0
    await relay.finish()
    assert (tmp_path / "log").read_text() == "text\n"


async def test_a_full_disk_stops_nothing(
    host: Host, relay: PipeRelay, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = small_disk / "log"
    process = shell("seq 200000", relay.child)
    relay.attach(host.sockets, tee=open_tee(log))
    received = await host.receive_all("out")
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()
    relay.close()
    expected = "".join(f"{number}\n" for number in range(1, 200_001)).encode()
    assert received == expected
    written = log.read_bytes()
    assert expected.startswith(written)
    assert len(written) == 64 * 1024
    assert caplog.messages == [
        f"{log}: cannot write, output will be missing: [Errno 28] No space left on device",
        f"{log}: {len(expected) - len(written)} bytes are missing",
    ]


async def test_a_slow_disk_holds_up_who_writes(tmp_path: Path) -> None:
    # A pipe nobody reads is the slowest disk there is.
    reader, writer = os.pipe2(os.O_CLOEXEC)
    log = TeeLog(writer, "pipe")
    assert log.put(bytes(70_000))  # more than the pipe takes: the thread is busy with it
    assert log.put(bytes(1000))
    assert not log.put(bytes(BACKLOG_LIMIT))
    room = asyncio.Event()
    log.when_room(room.set)
    assert not await log.flush(0.01)
    taken = len(await asyncio.to_thread(os.read, reader, 70_000))
    while taken < 70_000:
        taken += len(await asyncio.to_thread(os.read, reader, 70_000 - taken))
    await room.wait()
    while taken < 71_000 + BACKLOG_LIMIT:
        taken += len(await asyncio.to_thread(os.read, reader, 1 << 20))
    assert await log.flush(10)
    log.close()
    log.close()
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_what_is_put_before_a_close_is_written(tmp_path: Path) -> None:
    log = open_tee(tmp_path / "log")
    log.put(b"one")
    log.put(b"two")
    log.close()
    assert await log.flush(10)
    assert (tmp_path / "log").read_bytes() == b"onetwo"
