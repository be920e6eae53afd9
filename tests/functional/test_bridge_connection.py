"""The life of connections: concurrency, loss, redial, what is delivered afterwards, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import HEADER_SIZE, MAX_TO_HOST, MessageType
from gcs.protocol.hresult import HResult
from tests.functional.bridge_support import soon, start, wait_body
from tests.support.fakehost import PATIENCE, UVM, FakeHost
from tests.support.rootfs import specification

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fakehost import HostConnection, Launcher, Rig

MEBIBYTE = 1 << 20
NEGOTIATE_RESPONSE = 0x20100B01
WAIT_RESPONSE = 0x20100601
START_RESPONSE = 0x20100201


class Gate:
    """Processes that end when it is opened."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "gate"
        os.mkfifo(self.path)

    def command(self, status: int) -> dict[str, Any]:
        script = f"read line < {self.path}; exit {status}"
        return {"CommandArgs": ["/bin/sh", "-c", script]}

    def open(self) -> None:
        """Let one process go; waits until it is there."""
        self.path.write_text("go\n")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


async def test_a_pending_wait_holds_up_nothing(
    agent: Rig, connection: HostConnection, gate: Gate
) -> None:
    pid = await start(connection, gate.command(5))
    wait = await connection.send(MessageType.WAIT_FOR_PROCESS, wait_body(pid))
    for _ in range(3):
        assert (await connection.rpc(MessageType.START, {})).result == 0
    assert not wait.done()
    await asyncio.to_thread(gate.open)
    assert (await soon(wait)).body["ExitCode"] == 5


async def test_a_wait_with_a_time_limit(connection: HostConnection, gate: Gate) -> None:
    pid = await start(connection, gate.command(0))
    reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(pid, timeout=50))
    assert reply.result == HResult.TIMEOUT
    await asyncio.to_thread(gate.open)
    reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(pid))
    assert reply.body["ExitCode"] == 0


async def test_thousands_of_waits(agent: Rig, connection: HostConnection, gate: Gate) -> None:
    """None is refused, stacks still fit into a response, and all are answered."""
    count = 10_000
    pid = await start(connection, gate.command(9))
    body = wait_body(pid)
    waits = [await connection.send(MessageType.WAIT_FOR_PROCESS, body) for _ in range(count)]
    stacks = await connection.rpc(MessageType.DUMP_STACKS, {})
    assert stacks.size <= MAX_TO_HOST
    text = stacks.body["GuestStacks"]
    assert "10000 tasks (Request/WaitForProcess" in text
    assert "wait_for_process" in text
    assert "thread MainThread" in text
    await asyncio.to_thread(gate.open)
    for wait in waits:
        assert (await soon(wait)).body["ExitCode"] == 9


async def test_a_wait_outlives_its_connection(
    agent: Rig, connection: HostConnection, gate: Gate
) -> None:
    """Its answer comes on the next one, with the old id, once the host asks about the process."""
    pid = await start(connection, gate.command(6))
    await connection.send(MessageType.WAIT_FOR_PROCESS, wait_body(pid), sequence=500)
    assert (await connection.rpc(MessageType.START, {})).result == 0
    connection.close()
    second = await agent.host.connection()
    await asyncio.to_thread(gate.open)
    answer = second.expect(500)
    await agent.agent.logged(lambda entry: entry.fields.get("message-id") == 500)
    assert not answer.done()
    await second.negotiate()
    assert (await second.rpc(MessageType.START, {})).result == 0
    assert not answer.done()
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(pid, timeout=50), 900)
    assert (await soon(answer)).body["ExitCode"] == 6
    assert (probe.result, probe.body["ExitCode"]) == (0, 6)
    assert second.order == [NEGOTIATE_RESPONSE, START_RESPONSE, WAIT_RESPONSE, WAIT_RESPONSE]


async def test_a_wait_that_ends_later_is_answered_on_the_connection_of_then(
    agent: Rig, connection: HostConnection, gate: Gate
) -> None:
    pid = await start(connection, gate.command(8))
    await connection.send(MessageType.WAIT_FOR_PROCESS, wait_body(pid), sequence=600)
    assert (await connection.rpc(MessageType.START, {})).result == 0
    connection.close()
    (await agent.host.negotiated()).close()
    third = await agent.host.negotiated()
    answer = third.expect(600)
    probe = await third.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(pid, timeout=50))
    assert probe.result == HResult.TIMEOUT
    await asyncio.to_thread(gate.open)
    assert (await soon(answer)).body["ExitCode"] == 8


async def test_exit_of_a_container_while_nobody_is_connected(
    agent: Rig, connection: HostConnection, tmp_path: Path, busybox_rootfs: Path
) -> None:
    """Wait response, then notification, both once and when the host names the container."""
    name = f"bridge-exit-{os.getpid()}"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    spec = specification(busybox_rootfs, "/bin/sh", "-c", "read line < /gate/fifo; exit 4")
    spec["mounts"].append(
        {"destination": "/gate", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}
    )
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": str(tmp_path / "bundle"),
        "OciSpecification": spec,
    }
    activity = "99999999-2222-3333-4444-555555555555"
    created = await connection.rpc(
        MessageType.CREATE,
        {"ContainerId": name, "ActivityId": activity, "ContainerConfig": json.dumps(config)},
    )
    assert created.result == 0, created.body
    pid = await start(connection, {}, name)
    await connection.send(MessageType.WAIT_FOR_PROCESS, wait_body(pid, name), sequence=700)
    assert (await connection.rpc(MessageType.START, {})).result == 0
    connection.close()
    second = await agent.host.connection()
    await asyncio.to_thread(fifo.write_text, "go\n")
    await agent.agent.logged(lambda entry: entry.fields.get("message-id") == 700)
    answer = second.expect(700)
    await second.negotiate()
    assert (await second.rpc(MessageType.START, {})).result == 0
    assert second.order == [NEGOTIATE_RESPONSE, START_RESPONSE]
    probe = await second.rpc(MessageType.WAIT_FOR_PROCESS, wait_body(pid, name, timeout=50), 900)
    assert (await soon(answer)).body["ExitCode"] == 4
    assert (probe.result, probe.body["ExitCode"]) == (0, 4)
    async with asyncio.timeout(PATIENCE):
        notification = await second.notifications.get()
    assert notification == {
        "ContainerId": name,
        "ActivityId": activity,
        "Type": "UnexpectedExit",
        "Operation": "None",
        "Result": 0,
    }
    held_back = [WAIT_RESPONSE, MessageType.NOTIFICATION]
    assert second.order == [NEGOTIATE_RESPONSE, START_RESPONSE, *held_back, WAIT_RESPONSE]
    deleted = await second.rpc(MessageType.DELETE_CONTAINER_STATE, {"ContainerId": name})
    assert deleted.result == 0, deleted.body
    assert second.notifications.empty()


async def test_each_connection_starts_unnegotiated(agent: Rig, connection: HostConnection) -> None:
    for _ in range(10):
        connection.close()
        connection = await agent.host.connection()
        refused = await connection.rpc(MessageType.START, {})
        assert refused.result == HResult.NOT_IMPLEMENTED
        assert (await connection.negotiate()).result == 0
        assert (await connection.rpc(MessageType.START, {})).result == 0
    descriptors = len(os.listdir(f"/proc/{agent.agent.pid}/fd"))
    connection.close()
    connection = await agent.host.negotiated()
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert len(os.listdir(f"/proc/{agent.agent.pid}/fd")) == descriptors


async def test_the_host_closes_in_the_middle_of_responses(
    agent: Rig, connection: HostConnection
) -> None:
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    body = b"{}"
    frame = struct.pack("<IIQ", MessageType.DUMP_STACKS, HEADER_SIZE + len(body), 1) + body
    for _ in range(300):
        await connection.send_raw(frame)
    await agent.agent.logged(lambda entry: "dumpStacks" in entry.fields.get("name", ""))
    connection.close()
    second = await agent.host.negotiated()
    assert (await second.rpc(MessageType.START, {})).result == 0


async def test_a_host_that_does_not_read_loses_nothing_and_costs_little(
    agent: Rig, connection: HostConnection
) -> None:
    """The agent stops reading requests rather than piling up responses."""
    count = 20_000
    before = agent.agent.resident_bytes
    transport: Any = connection.writer.transport
    transport.pause_reading()
    body = b'{"ContainerId":"' + b"x" * 400 + b'"}'
    sent = [
        struct.pack("<IIQ", MessageType.GET_PROPERTIES, HEADER_SIZE + len(body), number) + body
        for number in range(1000, 1000 + count)
    ]
    answers = [connection.expect(number) for number in range(1000, 1000 + count)]
    sending = asyncio.create_task(connection.send_raw(b"".join(sent)))
    await agent.agent.logged(lambda entry: entry.fields.get("message-id") == 1100)
    transport.resume_reading()
    for answer in answers:
        assert (await soon(answer)).result == HResult.SYSTEM_NOT_FOUND
    await sending
    assert agent.agent.resident_bytes - before < 60 * MEBIBYTE


@pytest.mark.parametrize(
    "request_type", [MessageType.SHUTDOWN_GRACEFUL, MessageType.SHUTDOWN_FORCED]
)
async def test_shutdown_of_the_vm_ends_the_agent_and_spares_this_machine(
    agent: Rig, connection: HostConnection, request_type: int
) -> None:
    """No response; and outside a VM the agent is all that ends."""
    answer = await connection.send(request_type, {"ContainerId": UVM})
    assert await agent.agent.ended() == 0
    await connection.wait_closed()
    with pytest.raises(ConnectionResetError):
        await answer
    assert not any(entry.message == "powering off" for entry in agent.agent.entries)
    assert any(entry.fields.get("reason") == "shutdown request" for entry in agent.agent.entries)


async def test_the_agent_waits_for_its_host(launch: Launcher, tmp_path: Path) -> None:
    """Started before the host listens, it dials until somebody does, and says so once."""
    prefix = str(tmp_path / "h")
    agent = await launch("-v4", "-log-format", "json", "-transport", f"unix:{prefix}")
    await agent.logged(lambda entry: entry.message == "failed to dial host, retrying")
    host = FakeHost(prefix)
    await host.listen()
    connection = await host.negotiated()
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert await agent.stop() == 0
    await host.close()
    messages = [entry.message for entry in agent.entries]
    assert messages.count("failed to dial host, retrying") == 1
    assert messages.index("GCS started") < messages.index("bridge connected, serving")


async def test_without_v4_nothing_is_known(launch: Launcher, tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path / "h"))
    await host.listen()
    agent = await launch("-log-format", "json", "-transport", f"unix:{host.prefix}")
    connection = await host.connection()
    assert (await connection.negotiate()).result == HResult.NOT_IMPLEMENTED
    assert await agent.stop() == 0
    await host.close()


async def test_denied_by_policy(launch: Launcher, tmp_path: Path) -> None:
    host = FakeHost(str(tmp_path / "h"))
    await host.listen()
    agent = await launch(
        "-v4", "-initial-policy-stance", "deny", "-transport", f"unix:{host.prefix}"
    )
    connection = await host.negotiated()
    execute = {"ContainerId": UVM, "Settings": {"ProcessParameters": '{"CommandLine":"true"}'}}
    layers = {"ResourceType": "CombinedLayers", "Settings": {"ContainerRootPath": "/run/x"}}
    for message_type, body in (
        (MessageType.EXECUTE_PROCESS, execute),
        (MessageType.CREATE, {"ContainerId": "c", "ContainerConfig": "{}"}),
        (MessageType.DUMP_STACKS, {}),
        (MessageType.GET_PROPERTIES, {"ContainerId": "c"}),
        (MessageType.SIGNAL_PROCESS, {"ContainerId": "c"}),
        (MessageType.SHUTDOWN_FORCED, {"ContainerId": "c"}),
        (MessageType.MODIFY_SETTINGS, {"ContainerId": UVM, "Request": layers}),
    ):
        reply = await connection.rpc(message_type, body)
        assert reply.result == HResult.FAIL
        assert "denied by policy" in reply.body["ErrorMessage"]
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert await agent.stop() == 0
    assert agent.lines == []  # logs are held back until a policy allows them
    await host.close()


async def test_serving_standard_input_and_output(launch: Launcher) -> None:
    """The flag -use-inouterr: until EOF, then the agent ends."""
    agent = await launch(
        "-v4",
        "-log-format=json",
        "-use-inouterr",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    stdin, stdout = agent.process.stdin, agent.process.stdout
    assert stdin is not None
    assert stdout is not None
    body = b'{"MinimumVersion":4,"MaximumVersion":4}'
    stdin.write(struct.pack("<IIQ", 0x10100B01, HEADER_SIZE + len(body), 3) + body)
    header = await stdout.readexactly(HEADER_SIZE)
    message_type, size, sequence = struct.unpack("<IIQ", header)
    assert (message_type, sequence) == (NEGOTIATE_RESPONSE, 3)
    assert json.loads(await stdout.readexactly(size - HEADER_SIZE))["Version"] == 4
    stdin.close()
    assert await agent.ended() == 0
    assert await stdout.read() == b""
    assert agent.entries
