"""The agent gives the answers that the reference gave (recorded; see GCS_GOLDEN)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import MessageType, response_type, type_name
from tests.support.fakehost import PATIENCE
from tests.support.rootfs import build_rootfs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.support.fakehost import FakeHost, HostConnection, Reply, Rig, Stream

GOLDEN = Path(
    os.environ.get("GCS_GOLDEN") or Path(__file__).parents[2].parent / "shared" / "golden"
)
PROBES: list[dict[str, Any]] = json.loads((GOLDEN / "probes.json").read_text())
#: How long an agent may take to answer again after nonsense (README of the recordings).
SURVIVAL_SECONDS = 6.0


def body_of(probe: dict[str, Any]) -> bytes:
    if "body" in probe:
        return str(probe["body"]).encode()
    spec = probe["body_spec"]
    if "hex" in spec:
        return bytes.fromhex(spec["hex"])
    text, count = spec["repeat"]
    return str(spec.get("prefix", "") + text * count + spec.get("suffix", "")).encode()


def differences(expected: dict[str, Any], reply: Reply) -> list[str]:
    """What is wrong with a reply."""
    wrong = []
    if reply.type != int(expected["type"], 16):
        wrong.append(f"type {reply.type:#x}")
    if reply.result != int(expected["result"], 16):
        wrong.append(f"result {reply.result:#x} {reply.body.get('ErrorMessage')}")
    if missing := set(expected["keys"]) - set(reply.body):
        wrong.append(f"no {missing}")
    if reply.body.get("ActivityId") != expected.get("activity"):
        wrong.append(f"activity id {reply.body.get('ActivityId')!r}")
    wrong.extend(
        f"{key} is {reply.body.get(key)!r}"
        for key, value in expected.get("values", {}).items()
        if reply.body.get(key) != value
    )
    if reply.result:
        record = reply.body["ErrorRecords"][0]
        if record["Result"] != reply.body["Result"] or not record["Message"]:
            wrong.append(f"error record {record}")
    return wrong


class Prober:
    """Sends probes, on a new connection whenever the agent has dropped one."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host
        self.connection: HostConnection | None = None
        self.negotiated = False
        self.next_id = 1000

    async def probe(self, probe: dict[str, Any]) -> list[str]:
        if self.connection is None:
            self.connection = await self.host.connection()
        if not probe.get("before_negotiate") and not self.negotiated:
            await self.connection.negotiate()
            self.negotiated = True
        sequence = int(probe["id"], 16) if "id" in probe else self.next_id
        self.next_id += 1
        if probe["expect"].get("survive"):
            return await self.survive(probe, sequence)
        reply = await self.connection.rpc(int(probe["type"], 16), body_of(probe), sequence)
        return differences(probe["expect"], reply)

    async def survive(self, probe: dict[str, Any], sequence: int) -> list[str]:
        assert self.connection is not None
        if "frame_hex" in probe:
            await self.connection.send_raw(bytes.fromhex(probe["frame_hex"]))
            await self.connection.wait_closed()
        else:
            message_type = int(probe["type"], 16)
            reply = await self.connection.rpc(message_type, body_of(probe), sequence)
            if reply.type != response_type(message_type):
                return [f"type {reply.type:#x}"]
            # A valid answer leaves the connection in use: another negotiation is refused on it.
            if (await self.connection.negotiate()).type != response_type(
                MessageType.NEGOTIATE_PROTOCOL
            ):
                return ["no answer to NegotiateProtocol"]
            return []
        async with asyncio.timeout(SURVIVAL_SECONDS):
            self.connection = await self.host.negotiated()
        return []


async def test_probes_get_the_recorded_answers(agent: Rig) -> None:
    prober = Prober(agent.host)
    pid = agent.agent.pid
    found = {}
    for probe in PROBES:
        if wrong := await prober.probe(probe):
            found[probe["name"]] = wrong
        if probe["name"] == "negotiate-4-9":
            prober.negotiated = True
    assert not found
    assert agent.agent.pid == pid
    assert agent.agent.process.returncode is None
    assert len(PROBES) > 90


@pytest.mark.parametrize("index", [0, 1])
async def test_negotiation_as_recorded(agent: Rig, index: int) -> None:
    """On a first connection, and on a later one."""
    messages = read_exchange("connect-negotiate.jsonl")
    request, response = messages[2 * index], messages[2 * index + 1]
    for _ in range(index):
        connection = await agent.host.negotiated()
        connection.close()
    connection = await agent.host.connection()
    reply = await connection.rpc(MessageType.NEGOTIATE_PROTOCOL, request["body"], request["id"])
    assert reply.body == response["body"]


class Replay:
    """Sends the host's side of a recorded exchange and compares what the agent answers.

    Args:
        host: Where the agent dials.
        connection: Negotiated.
        leave_out: Requests not to be sent, nor their responses expected.
    """

    def __init__(
        self,
        host: FakeHost,
        connection: HostConnection,
        leave_out: Callable[[dict[str, Any]], bool] = lambda _: False,
    ) -> None:
        self.host = host
        self.connection = connection
        self.leave_out = leave_out
        self.responses: dict[int, asyncio.Future[Reply]] = {}
        self.inputs: dict[int, Stream] = {}
        self.outputs: dict[int, Output] = {}
        self.pids: dict[int, int] = {}

    async def run(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            if message["direction"] == "host-to-guest":
                await self.request(message)
            elif message["type"] == "Notification":
                async with asyncio.timeout(PATIENCE):
                    assert await self.connection.notifications.get() == message["body"]
            elif message["id"] in self.responses:
                async with asyncio.timeout(PATIENCE):
                    reply = await self.responses[message["id"]]
                self.compare(message, reply)

    async def request(self, message: dict[str, Any]) -> None:
        if self.leave_out(message):
            return
        body = dict(message["body"])
        if "ProcessId" in body:
            body["ProcessId"] = self.pids[body["ProcessId"]]
        for name, port in body.get("Settings", {}).get("VsockStdioRelaySettings", {}).items():
            stream = await self.host.stdio(port)
            if name == "StdIn":
                self.inputs[port] = stream
            else:
                self.outputs[port] = Output(stream)
        message_type = next(t for t in MessageType if type_name(t) == message["type"])
        future = await self.connection.send(message_type, body, message["id"])
        self.responses[message["id"]] = future

    def compare(self, message: dict[str, Any], reply: Reply) -> None:
        expected = dict(message["body"])
        pid = expected.pop("ProcessId", None)
        if pid is not None:
            self.pids[pid] = reply.body.pop("ProcessId")
        assert reply.body == expected, message
        assert type_name(reply.type) == message["type"].replace("Request", "Response")

    async def write(self, port: int, data: bytes) -> None:
        """Send everything there will be on a stdin port."""
        _, writer = await self.inputs[port]
        writer.write(data)
        writer.write_eof()


class Output:
    """A stream of the agent, read to its end and then closed, as a host does; await it for all."""

    def __init__(self, stream: Stream) -> None:
        self._data = b""
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._read(stream))

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._task.__await__()

    async def says(self, text: bytes) -> None:
        """Wait until a text has come."""
        async with asyncio.timeout(PATIENCE):
            while text not in self._data:
                self._news.clear()
                await self._news.wait()

    async def _read(self, stream: Stream) -> bytes:
        reader, writer = await asyncio.wait_for(stream, PATIENCE)
        while data := await reader.read(4096):
            self._data += data
            self._news.set()
        writer.close()
        return self._data


async def test_processes_of_the_vm_as_recorded(agent: Rig, connection: HostConnection) -> None:
    replay = Replay(agent.host, connection)
    messages = read_exchange("uvm-exec-stdio.jsonl")
    await replay.run(messages[:4])
    assert await replay.outputs[0x40000001] == b"hi\n"
    assert await replay.outputs[0x40000002] == b"oops\n"
    await replay.run(messages[4:7])
    await replay.write(0x40000011, b"through the process\n")
    await replay.run(messages[7:])
    assert await replay.outputs[0x40000012] == b"through the process\nafter\n"
    assert await replay.outputs[0x40000013] == b""


async def test_a_container_without_a_pod_as_recorded(
    agent: Rig, connection: HostConnection
) -> None:
    """With directories where the recording has disks."""

    def leave_out(message: dict[str, Any]) -> bool:
        resource = message["body"].get("Request", {}).get("ResourceType")
        return resource in ("MappedVirtualDisk", "SCSIDevice")

    replay = Replay(agent.host, connection, leave_out)
    messages = read_exchange("standalone-container.jsonl")
    container_id = next(m["body"]["ContainerId"] for m in messages if m["type"] == "Request/Create")
    with layer_and_bundle(Path("/run/mounts/scsi/m11"), Path("/run/gcs/c", container_id)):
        await replay.run(messages)
        output = (await replay.outputs[1073742126]).decode().splitlines()
        assert output[:3] == ["alone", "alone", "1"]
        assert await replay.outputs[1073742127] == b""
        assert container_id not in os.listdir("/run/gcs/c")


@contextlib.contextmanager
def layer_and_bundle(layer: Path, bundle: Path) -> Iterator[None]:
    """Make what the disks of the recording bring, and leave nothing of it."""
    build_rootfs(layer)
    bundle.mkdir(parents=True)
    try:
        yield
    finally:
        if os.path.ismount(bundle / "rootfs"):
            subprocess.run(["umount", bundle / "rootfs"], check=True)
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.rmtree(layer)


def read_exchange(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]
