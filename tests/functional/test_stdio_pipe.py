"""PipeRelay between real processes and a host on socket pairs (spec 1.11, 4.9)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from gcs.stdio import PipeRelay, StdioPorts
from tests.support.stdio import Host, Process, open_descriptors, shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MEBIBYTE = 1 << 20
BIG = int(os.environ.get("GCS_STDIO_MEBIBYTES", "256"))


class Sample(NamedTuple):
    """A file and its content."""

    path: Path
    data: bytes


@pytest.fixture(autouse=True)
async def no_descriptor_is_left() -> AsyncIterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    yield host
    host.close_all()


@pytest.fixture
async def relay() -> AsyncIterator[PipeRelay]:
    relay = PipeRelay.create("process")
    yield relay
    relay.close()


@pytest.fixture
def mebibyte(tmp_path: Path) -> Sample:
    sample = Sample(tmp_path / "mebibyte", os.urandom(MEBIBYTE))
    sample.path.write_bytes(sample.data)
    return sample


async def test_a_big_amount_passes_both_ways_byte_exact(host: Host, relay: PipeRelay) -> None:
    process = Process(["cat"], relay.child)
    relay.attach(host.sockets)
    sent = hashlib.sha256()

    async def send() -> None:
        block = os.urandom(MEBIBYTE + 7)
        for number in range(BIG):
            piece = number.to_bytes(4, "big") + block[: len(block) - number]
            await host.send(piece)
            sent.update(piece)
        host.end_input()

    received, _ = await asyncio.gather(host.hash_all("out"), send())
    assert received == sent.hexdigest()
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_the_process_sees_eof_behind_all_input(host: Host, relay: PipeRelay) -> None:
    process = shell("wc -c", relay.child)
    relay.attach(host.sockets)
    await host.send(bytes(3 * MEBIBYTE))
    assert process.running()
    host.end_input()
    assert await host.receive_all("out") == b"%d\n" % (3 * MEBIBYTE)
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_the_host_sees_the_end_of_a_stream_while_the_process_lives(
    host: Host, relay: PipeRelay, mebibyte: Sample
) -> None:
    process = shell(
        "cat $DATA; exec >&-; read line; echo $line >&2", relay.child, DATA=str(mebibyte.path)
    )
    relay.attach(host.sockets)
    assert await host.receive_all("out") == mebibyte.data
    assert process.running()
    await host.send(b"still there\n")
    assert await host.receive_until("err", b"\n") == b"still there\n"
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_nothing_is_lost_when_a_process_writes_and_exits_at_once(mebibyte: Sample) -> None:
    expected = hashlib.sha256(mebibyte.data).hexdigest()
    for _ in range(200):
        host = Host("out")
        relay = PipeRelay.create("process", StdioPorts(stdout=1))
        process = Process(["cat", str(mebibyte.path)], relay.child)
        relay.attach(host.sockets)
        received = asyncio.create_task(host.hash_all("out"))
        assert await process.exit_code() == 0
        await relay.finish(drain_seconds=0)
        assert await received == expected
        relay.close()


async def test_what_lies_in_the_pipe_at_exit_reaches_a_host_that_reads_late(
    host: Host, relay: PipeRelay
) -> None:
    process = shell("head -c 200000 /dev/zero; echo end", relay.child)
    assert await process.exit_code() == 0
    relay.attach(host.sockets)
    finish = asyncio.create_task(relay.finish(drain_seconds=0))
    assert await host.receive_until("out", b"end\n") == bytes(200_000) + b"end\n"
    assert not finish.done()
    assert await host.receive_all("out") == b""
    host.close("err")
    await finish


async def test_the_exit_waits_for_the_host_to_close_its_end(host: Host, relay: PipeRelay) -> None:
    process = shell("echo done", relay.child)
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    host.close("err")
    finish = asyncio.create_task(relay.finish())
    assert await host.receive("out") == b"done\n"
    assert await host.receive("out") == b""
    assert not finish.done()
    host.close("out")
    await finish


async def test_a_slow_reader_holds_up_its_stream_only(
    host: Host, relay: PipeRelay, mebibyte: Sample
) -> None:
    process = shell(
        "cat $DATA $DATA $DATA & echo running >&2; wait", relay.child, DATA=str(mebibyte.path)
    )
    relay.attach(host.sockets)
    assert await host.receive_until("err", b"\n") == b"running\n"

    other_host = Host("out")
    other = PipeRelay.create("other process")
    other_process = shell("cat $DATA; echo other", other.child, DATA=str(mebibyte.path))
    other.attach(other_host.sockets)
    assert await other_host.receive_all("out") == mebibyte.data + b"other\n"
    assert await other_process.exit_code() == 0
    await other.finish()

    assert process.running()
    assert await host.receive_all("out") == mebibyte.data * 3
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_a_background_child_delays_the_exit_for_a_bounded_time_and_lives_on(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    os.mkfifo(tmp_path / "result")
    script = "(read line <$DIR/go; echo late; echo late; echo survived >$DIR/result) & echo first"
    process = shell(script, relay.child, DIR=str(tmp_path))
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    host.close("err")
    received = asyncio.create_task(host.receive_all("out"))
    await relay.finish(drain_seconds=0.05)
    assert await received == b"first\n"
    await asyncio.to_thread((tmp_path / "go").write_text, "go\n")
    assert await asyncio.to_thread((tmp_path / "result").read_text) == "survived\n"


async def test_output_of_a_background_child_within_the_drain_time_is_delivered(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    process = shell("(read line <$DIR/go; echo late) & echo first", relay.child, DIR=str(tmp_path))
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    host.close("err")
    finish = asyncio.create_task(relay.finish(drain_seconds=30))
    assert await host.receive_until("out", b"\n") == b"first\n"
    await asyncio.to_thread((tmp_path / "go").write_text, "go\n")
    assert await host.receive_all("out") == b"late\n"
    await finish


async def test_a_host_that_goes_away_does_not_stop_the_process(
    host: Host, relay: PipeRelay, mebibyte: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    process = shell(
        "cat $DATA $DATA $DATA $DATA; echo end >&2", relay.child, DATA=str(mebibyte.path)
    )
    relay.attach(host.sockets)
    start = await host.receive_exactly("out", 1000)
    host.close("out")
    assert await host.receive_until("err", b"\n") == b"end\n"
    assert start == mebibyte.data[:1000]
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()
    lost = [text for text in caplog.messages if "connection to the host lost" in text]
    assert len(lost) == 1
    assert lost[0].startswith("process stdout: ")


async def test_a_host_that_takes_nothing_is_given_up(
    host: Host, relay: PipeRelay, mebibyte: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    # More than the socket takes, and less than socket and pipe take together.
    process = shell("head -c 400000 $DATA", relay.child, DATA=str(mebibyte.path))
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish(stall_seconds=0.05)
    assert any("the host took nothing for 0.05 s" in text for text in caplog.messages)


async def test_a_host_that_never_closes_its_end_delays_nothing(
    host: Host, relay: PipeRelay
) -> None:
    process = shell("echo done", relay.child)
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    await relay.finish()
    relay.close()
    assert await host.receive_all("out") == b"done\n"


async def test_a_lost_input_connection_is_eof(host: Host, relay: PipeRelay) -> None:
    process = shell("cat; echo eof", relay.child)
    relay.attach(host.sockets)
    await host.send(b"text\n")
    assert await host.receive_until("out", b"\n") == b"text\n"
    host.close("in")
    assert await host.receive_all("out") == b"eof\n"
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_a_process_that_closes_its_input_stops_the_sending_host(
    host: Host, relay: PipeRelay, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    process = shell("exec <&-; read line <$DIR/go", relay.child, DIR=str(tmp_path))
    relay.attach(host.sockets)
    with pytest.raises(BrokenPipeError):
        await host.send(bytes(64 * MEBIBYTE))
    assert process.running()
    await asyncio.to_thread((tmp_path / "go").write_text, "go\n")
    assert await process.exit_code() == 0
    host.close("out")
    host.close("err")
    await relay.finish()


async def test_an_exit_with_unread_input_ends_the_sending_host(
    host: Host, relay: PipeRelay
) -> None:
    process = shell("exec sleep 1000", relay.child)
    relay.attach(host.sockets)
    sending = asyncio.create_task(host.send(bytes(8 * MEBIBYTE)))
    await asyncio.sleep(0)
    process.kill()
    assert await process.exit_code() == -9
    host.close("out")
    host.close("err")
    await relay.finish()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await sending


async def test_streams_nobody_wants_are_like_dev_null(relay: PipeRelay, tmp_path: Path) -> None:
    script = "cat; cat $DATA $DATA; cat $DATA >&2; echo written >$DIR/result"
    (tmp_path / "data").write_bytes(bytes(MEBIBYTE))
    process = shell(script, relay.child, DIR=str(tmp_path), DATA=str(tmp_path / "data"))
    relay.attach(Host("").sockets)
    assert await process.exit_code() == 0
    assert (tmp_path / "result").read_text() == "written\n"
    await relay.finish()


async def test_streams_known_not_to_be_wanted_are_dev_null() -> None:
    host = Host("out")
    relay = PipeRelay.create("process", StdioPorts(stdout=1))
    process = shell("readlink /proc/self/fd/0 /proc/self/fd/2", relay.child)
    relay.attach(host.sockets)
    assert await host.receive_all("out") == b"/dev/null\n/dev/null\n"
    assert await process.exit_code() == 0
    await relay.finish()


async def test_the_output_can_be_opened_again_by_path(host: Host, relay: PipeRelay) -> None:
    process = shell("echo one >/dev/stdout; echo two >/proc/self/fd/1", relay.child)
    relay.attach(host.sockets)
    assert await host.receive_all("out") == b"one\ntwo\n"
    assert await process.exit_code() == 0
    host.close("err")
    await relay.finish()


async def test_closing_while_bytes_flow_leaves_nothing_open(
    host: Host, relay: PipeRelay, mebibyte: Sample
) -> None:
    process = shell(
        "trap '' PIPE; cat $DATA $DATA 2>/dev/null; :", relay.child, DATA=str(mebibyte.path)
    )
    relay.attach(host.sockets)
    await host.receive_exactly("out", 1000)
    relay.close()
    assert await process.exit_code() == 0
    await host.receive_all("out")


async def test_a_cancelled_finish_closes_everything(host: Host, relay: PipeRelay) -> None:
    process = shell("echo done", relay.child)
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    finish = asyncio.create_task(relay.finish())
    assert await host.receive("out") == b"done\n"
    finish.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finish
    assert await host.receive("err") == b""


async def test_closing_ends_a_finish_that_waits_for_the_host(
    host: Host, relay: PipeRelay, mebibyte: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    process = shell("head -c 400000 $DATA", relay.child, DATA=str(mebibyte.path))
    relay.attach(host.sockets)
    assert await process.exit_code() == 0
    finish = asyncio.create_task(relay.finish())
    await host.receive_exactly("out", 1000)
    relay.close()
    await finish
    assert caplog.messages == []
