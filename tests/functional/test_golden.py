"""The agent gives the answers that the reference gave (recorded; see GCS_GOLDEN)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import MessageType, response_type


if TYPE_CHECKING:
    from tests.support.fakehost import FakeHost, HostConnection, Reply, Rig

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


def read_exchange(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]
