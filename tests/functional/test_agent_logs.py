"""The log stream: only entries a host's parser takes, whatever goes wrong; never in the way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.frame import MessageType
from gcs.protocol.logs import decode_json
from tests.support.fakehost import PATIENCE, UVM, FakeHost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.fakehost import AgentProcess, HostConnection, Launcher, Rig

JSON = ("-v4", "-log-format", "json")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[FakeHost]:
    host = FakeHost(str(tmp_path / "h"))
    await host.listen()
    yield host
    await host.close()


def transport(host: FakeHost) -> tuple[str, str]:
    return "-transport", f"unix:{host.prefix}"


async def test_everything_is_an_entry(agent: Rig, connection: HostConnection) -> None:
    assert (await connection.rpc(MessageType.CREATE, b"{nope")).result
    assert (await connection.rpc(MessageType.START, {})).result == 0
    started = await agent.agent.logged(lambda entry: entry.message == "GCS started")
    assert set(started.fields) == {"version", "branch", "commit"}
    failed = await agent.agent.logged(lambda entry: entry.message == "request failed")
    assert failed.level == "warning"
    assert "not valid JSON" in failed.fields["error"]
    assert await agent.agent.stop() == 0
    # A span has the time at which it began, and is logged when it has ended.
    times = [entry.time for entry in agent.agent.entries if entry.message != "Span"]
    assert times == sorted(times)
    assert all(times)
    for line in agent.agent.lines:
        decode_json(line)  # as a host does


SABOTAGE = """
import os, sys, threading, warnings, logging
from gcs.bridge.handlers import HANDLERS
from gcs.protocol.frame import MessageType
async def start(services, request):
    import subprocess, asyncio
    what = request.container_id
    if what == "print":
        print("printed")
        print("to stderr", file=sys.stderr)
    elif what == "raw":
        os.write(1, b"raw one\\n{not json\\n")
        os.write(2, b"raw two \\xff\\xfe\\n")
    elif what == "child":
        command = "echo from a child; echo its stderr >&2"
        await asyncio.to_thread(subprocess.run, command, shell=True)
    elif what == "warn":
        warnings.warn("a warning")
    elif what == "thread":
        thread = threading.Thread(target=lambda: 1 // 0, name="careless")
        thread.start()
        thread.join()
    elif what == "unraisable":
        class Careless:
            def __del__(self):
                raise ValueError("in a finalizer")
        Careless()
    elif what == "task":
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    elif what == "log":
        logging.getLogger("x").info("%d", "no number")
        logging.getLogger("x").info("odd", extra={"fields": {
            "level": "mine", "big": 1 << 99, "half": "\\ud800", "set": {1}, 5: 6}})
    elif what == "raise":
        raise RuntimeError("a defect")
    elif what == "exit":
        sys.exit(3)
    elif what == "cancel":
        raise asyncio.CancelledError
    elif what == "memory":
        raise MemoryError
    elif what == "stop":
        asyncio.get_running_loop().stop()
    from gcs.protocol.responses import Response
    return Response()
HANDLERS[MessageType.START] = start
from gcs.cli import main
sys.exit(main(sys.argv[1:]))
"""


async def start_sabotaged(launch: Launcher, host: FakeHost) -> AgentProcess:
    """An agent whose Start handler does what it is told to."""
    program = (sys.executable, "-c", SABOTAGE)
    return await launch(*JSON, *transport(host), program=program, stdout=asyncio.subprocess.PIPE)


async def test_stray_output_and_uncaught_errors_become_entries(
    launch: Launcher, host: FakeHost
) -> None:
    agent = await start_sabotaged(launch, host)
    connection = await host.negotiated()
    for what in ("print", "raw", "child", "warn", "thread", "unraisable", "task", "log"):
        assert (await connection.rpc(MessageType.START, {"ContainerId": what})).result == 0
    for text in ("printed", "to stderr", "raw one", "{not json", "from a child", "its stderr"):
        await agent.logged(lambda entry, text=text: entry.message == text)  # type: ignore[misc]
    await agent.logged(lambda entry: entry.message.startswith("raw two"))
    await agent.logged(lambda entry: "a warning" in entry.message and entry.level == "warning")
    thread = await agent.logged(lambda entry: "thread careless failed" in entry.message)
    assert "ZeroDivisionError" in thread.fields["error"]
    assert "Traceback" in thread.fields["stack"]
    await agent.logged(lambda entry: "in a finalizer" in str(entry.fields.get("error")))
    await agent.logged(lambda entry: "Exception in callback" in entry.message)
    await agent.logged(lambda entry: "malformed log call" in entry.message)
    odd = await agent.logged(lambda entry: entry.message == "odd")
    assert odd.level == "info"
    assert odd.fields["fields.level"] == "mine"
    assert await agent.stop() == 0
    assert agent.process.stdout is not None
    assert await agent.process.stdout.read() == b""


@pytest.mark.parametrize("what", ["raise", "exit", "cancel", "memory"])
async def test_what_escapes_a_handler_is_answered_and_logged(
    launch: Launcher, host: FakeHost, what: str
) -> None:
    agent = await start_sabotaged(launch, host)
    connection = await host.negotiated()
    reply = await connection.rpc(MessageType.START, {"ContainerId": what})
    assert reply.result == 0x80004005
    assert reply.body["ErrorMessage"]
    failed = await agent.logged(lambda entry: entry.message == "request failed")
    assert failed.level == "error"
    assert "Traceback" in failed.fields["stack"]
    assert (await connection.rpc(MessageType.START, {"ContainerId": "-"})).result == 0
    assert await agent.stop() == 0
    assert agent.entries


async def test_a_failing_agent_says_why_in_an_entry(launch: Launcher, host: FakeHost) -> None:
    agent = await start_sabotaged(launch, host)
    connection = await host.negotiated()
    await connection.send(MessageType.START, {"ContainerId": "stop"})
    assert await agent.ended() == 1
    failed = await agent.logged(lambda entry: entry.level == "fatal")
    assert "Event loop stopped" in failed.fields["error"]


async def test_it_goes_on_when_the_log_reader_dies(launch: Launcher, host: FakeHost) -> None:
    """The reference dies of that."""
    ours, theirs = socket.socketpair()
    agent = await launch(*JSON, *transport(host), stderr=theirs.fileno(), stdout=None)
    theirs.close()
    ours.close()
    connection = await host.negotiated()
    for _ in range(50):
        assert (await connection.rpc(MessageType.START, b"")).result
    assert agent.process.returncode is None
    assert await agent.stop() == 0


async def test_it_goes_on_when_the_log_reader_stalls(launch: Launcher, host: FakeHost) -> None:
    """Entries that don't fit are dropped and counted; no request waits."""
    reader, writer = os.pipe()
    agent = await launch(*JSON, *transport(host), stderr=writer, stdout=None)
    os.close(writer)
    connection = await host.negotiated()
    body = b'{"ContainerId":"' + b"x" * 100 + b'"}'
    count = 8000
    answers = [await connection.send(MessageType.GET_PROPERTIES, body) for _ in range(count)]
    async with asyncio.timeout(PATIENCE):
        for answer in answers:
            assert (await answer).result
    stream = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb")
    )
    lines = [await stream.readuntil() for _ in range(100)]
    assert all(decode_json(line) for line in lines)
    async with asyncio.timeout(PATIENCE):
        while b"log entries were dropped" not in (line := await stream.readuntil()):
            decode_json(line)
            await connection.rpc(MessageType.START, {})
    assert decode_json(line).level == "warning"
    agent.process.send_signal(signal.SIGTERM)
    while await stream.read(1 << 16):
        pass
    assert await agent.process.wait() == 0


async def test_children_do_not_get_the_log(agent: Rig, connection: HostConnection) -> None:
    """A process of the VM has its three descriptors and no more."""
    port = 0x40000001
    stream = await agent.host.stdio(port)
    body = {
        "ContainerId": UVM,
        "Settings": {
            "ProcessParameters": '{"CommandArgs":["/bin/ls","/proc/self/fd"],'
            '"CreateStdOutPipe":true}',
            "VsockStdioRelaySettings": {"StdOut": port},
        },
    }
    assert (await connection.rpc(MessageType.EXECUTE_PROCESS, body)).result == 0
    reader, writer = await stream
    listed = (await reader.read()).split()
    writer.close()
    assert set(listed) <= {b"0", b"1", b"2", b"3"}  # 3 is the directory that ls reads


@pytest.mark.parametrize("exists", [False, True])
async def test_log_to_a_file(
    launch: Launcher, host: FakeHost, tmp_path: Path, exists: bool
) -> None:
    path = tmp_path / "log"
    if exists:
        path.write_text("of a former life\n")
        path.chmod(0o640)
    agent = await launch(*JSON, *transport(host), "-logfile", str(path))
    await host.negotiated()
    assert await agent.stop() == 0
    assert agent.lines == []
    assert decode_json(path.read_bytes().splitlines()[0]).message == "GCS started"
    assert path.stat().st_mode & 0o777 == (0o640 if exists else 0o600)


async def test_text_form_and_level(launch: Launcher, host: FakeHost) -> None:
    agent = await launch("-v4", "-loglevel=info", *transport(host))
    connection = await host.negotiated()
    assert (await connection.rpc(MessageType.START, b"{nope")).result
    assert await agent.stop() == 0
    assert all(line.startswith(b'time="20') for line in agent.lines)
    assert any(b'level=info msg="GCS started" version=' in line for line in agent.lines)
    assert any(b'level=warning msg="request failed"' in line for line in agent.lines)
    assert not any(b"level=debug" in line for line in agent.lines)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["-bogus"], 2, "flag provided but not defined: -bogus"),
        (["-loglevel"], 2, "flag needs an argument: -loglevel"),
        (["-loglevel", "loud"], 2, "invalid value"),
        (["-log-format", "xml"], 2, "invalid value"),
        (["-initial-policy-stance", "maybe"], 2, "invalid value"),
        (["-transport", "pigeon"], 2, "unknown transport"),
        (["-v4=perhaps"], 2, "not a boolean"),
        (["-h"], 0, "-initial-policy-stance string"),
        (["--help"], 0, "-kmsgLogLevel uint"),
        (["-logfile", "/no/such/directory/log"], 1, "cannot open the log file"),
    ],
)
async def test_command_lines_that_do_not_start(
    launch: Launcher, arguments: list[str], status: int, text: str
) -> None:
    agent = await launch(*arguments)
    assert await agent.ended() == status
    assert text in b"".join(agent.lines).decode()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["-log-format", "json", "-bogus"], 2, "flag provided but not defined: -bogus"),
        (["-bogus", "--log-format=json"], 2, "flag provided but not defined: -bogus"),
        (["-log-format=json", "-logfile", "/no/such/directory/log"], 1, "cannot open"),
    ],
)
async def test_a_host_that_reads_json_gets_the_complaint_as_an_entry(
    launch: Launcher, arguments: list[str], status: int, text: str
) -> None:
    agent = await launch(*arguments)
    assert await agent.ended() == status
    (entry,) = agent.entries
    assert entry.level == "fatal"
    assert text in entry.message
    assert status == 1 or "-core-dump-location" in entry.fields["usage"]


async def test_all_flags_of_the_reference_are_accepted(
    launch: Launcher, host: FakeHost, tmp_path: Path
) -> None:
    agent = await launch(
        "-v4=true",
        "--log-format=json",
        "--loglevel",
        "trace",
        "-kmsgLogLevel=7",
        "-root-mem-reserve-bytes",
        "0x4000000",
        "-gcs-mem-limit-bytes=52428800",
        "-disable-time-sync",
        "-scrub-logs=false",
        "-use-inouterr=0",
        "-core-dump-location=",
        "-initial-policy-stance=allow",
        "-logfile=",
        *transport(host),
        "behind the flags",
        "-bogus",
    )
    connection = await host.negotiated()
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert await agent.stop() == 0
    assert agent.entries


async def test_started_without_standard_descriptors(launch: Launcher, host: FakeHost) -> None:
    shell = ("/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    agent = await launch(*JSON, *transport(host), program=(*shell, sys.executable, "-m", "gcs"))
    connection = await host.negotiated()
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert await agent.stop() == 0
