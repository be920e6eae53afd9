"""Streams of a container while the whole host goes away, bridge and all (spec 1.10)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from gcs.protocol.frame import MessageType
from tests.support.fakehost import ACTIVITY
from tests.support.rootfs import specification

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fakehost import HostConnection, Rig

STDIN, STDOUT = 0x4000_0001, 0x4000_0002
CONTAINER = f"gcsstreams{os.getpid()}"


async def call(connection: HostConnection, message_type: int, **body: Any) -> dict[str, Any]:
    identity = {"ContainerId": CONTAINER, "ActivityId": ACTIVITY}
    reply = await connection.rpc(message_type, {**identity, **body})
    assert reply.result == 0, reply.body
    return reply.body


async def create(connection: HostConnection, bundle: Path, rootfs: Path, *command: str) -> int:
    """Create and start a container with stdin and stdout; return the pid of its init."""
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": os.fspath(bundle),
        "OciSpecification": specification(rootfs, *command),
    }
    await call(connection, MessageType.CREATE, ContainerConfig=json.dumps(config))
    settings = {
        "ProcessParameters": json.dumps({"CreateStdInPipe": True, "CreateStdOutPipe": True}),
        "VsockStdioRelaySettings": {"StdIn": STDIN, "StdOut": STDOUT},
    }
    started = await call(connection, MessageType.EXECUTE_PROCESS, Settings=settings)
    return int(started["ProcessId"])


async def test_a_container_goes_on_where_it_was(
    agent: Rig, connection: HostConnection, tmp_path: Path, busybox_rootfs: Path
) -> None:
    host = agent.host
    stdin, stdout = await host.stdio(STDIN), await host.stdio(STDOUT)
    script = "while read x; do echo $x; done; exit 7"
    pid = await create(connection, tmp_path / "c", busybox_rootfs, "sh", "-c", script)
    (_, typing), (reading, output) = await stdin, await stdout
    typing.write(b"one\n")
    assert await reading.readuntil(b"\n") == b"one\n"

    connection.close()
    typing.transport.abort()
    output.transport.abort()
    stdin, stdout = await host.stdio(STDIN), await host.stdio(STDOUT)
    connection = await host.negotiated()
    (_, typing), (reading, output) = await stdin, await stdout
    typing.write(b"two\n")
    typing.write_eof()
    assert (await reading.readuntil(b"two\n")).startswith((b"one\n", b"two\n"))
    assert await reading.read() == b""
    output.close()
    wait = {"ProcessId": pid, "TimeoutInMs": 0xFFFF_FFFF}
    assert (await call(connection, MessageType.WAIT_FOR_PROCESS, **wait))["ExitCode"] == 7
    assert (await connection.notifications.get())["ContainerId"] == CONTAINER
    await call(connection, MessageType.DELETE_CONTAINER_STATE)
