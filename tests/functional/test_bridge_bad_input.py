"""Whatever a host sends, the agent answers with the right HRESULT or drops that connection.

Each test ends by asking the same agent process for something that works.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import HEADER_SIZE, MAX_TO_GUEST, MAX_TO_HOST, MessageType, response_type
from gcs.protocol.hresult import HResult
from tests.support.fakehost import ACTIVITY, PATIENCE, UVM

if TYPE_CHECKING:
    from tests.support.fakehost import HostConnection, Reply, Rig

MEBIBYTE = 1 << 20
BASE = {"ContainerId": "nobody", "ActivityId": ACTIVITY}


def header(message_type: int, size: int, sequence: int = 1) -> bytes:
    return struct.pack("<IIQ", message_type, size, sequence)


def specification(**sections: Any) -> dict[str, Any]:
    whole = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": "/nowhere"},
        "linux": {},
    }
    whole.update(sections)
    return {key: value for key, value in whole.items() if value != "absent"}


def create(spec: Any, **settings: Any) -> dict[str, Any]:
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": "/run/gcs/c/bad-input",
        "OciSpecification": spec,
        **settings,
    }
    return {
        "ContainerId": "bad-input",
        "ActivityId": ACTIVITY,
        "ContainerConfig": json.dumps(config),
    }


def execute(container_id: str, parameters: Any, **ports: int) -> dict[str, Any]:
    return {
        "ContainerId": container_id,
        "ActivityId": ACTIVITY,
        "Settings": {
            "ProcessParameters": parameters
            if isinstance(parameters, str)
            else json.dumps(parameters),
            "VsockStdioRelaySettings": ports,
        },
    }


def modify(request: Any) -> dict[str, Any]:
    return {"ContainerId": UVM, "ActivityId": ACTIVITY, "Request": request}


def check_error(reply: Reply, request_type: int, result: int) -> None:
    """An error as a host can log it."""
    assert reply.type == response_type(request_type)
    assert reply.result == result, reply.body
    assert reply.body["ErrorMessage"]
    (record,) = reply.body["ErrorRecords"]
    assert record["Result"] == reply.body["Result"]
    assert record["Message"]
    assert record["ModuleName"]
    assert reply.size <= MAX_TO_HOST


async def check_serving(connection: HostConnection, rig: Rig) -> None:
    """The same process still works, on this connection."""
    parameters = {"CommandArgs": ["/bin/sh", "-c", "exit 7"]}
    started = await connection.rpc(MessageType.EXECUTE_PROCESS, execute(UVM, parameters))
    assert started.result == 0, started.body
    body = {
        "ContainerId": UVM,
        "ProcessId": started.body["ProcessId"],
        "TimeoutInMs": 0xFFFF_FFFF,
    }
    ended = await connection.rpc(MessageType.WAIT_FOR_PROCESS, body)
    assert ended.body["ExitCode"] == 7
    assert rig.agent.process.returncode is None


FAIL, JSON, NOT_IMPLEMENTED = HResult.FAIL, HResult.INVALID_JSON, HResult.NOT_IMPLEMENTED
NO_SYSTEM, NO_PROCESS = HResult.SYSTEM_NOT_FOUND, HResult.NOT_FOUND
DEEP = b"[" * 100_000
DEEP_CLOSED = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
WAIT = {**BASE, "ContainerId": UVM, "ProcessId": 999_999, "TimeoutInMs": 1}

REFUSED: dict[str, tuple[int, bytes | dict[str, Any], int]] = {
    # Types
    "unknown message": (0x10100E01, BASE, NOT_IMPLEMENTED),
    "unknown category": (0x1FF00101, BASE, NOT_IMPLEMENTED),
    "unknown version": (0x10100102, BASE, NOT_IMPLEMENTED),
    "unknown message without body": (0x1010FF01, b"", NOT_IMPLEMENTED),
    "type zero": (0, BASE, NOT_IMPLEMENTED),
    "a response": (0x20100201, BASE, NOT_IMPLEMENTED),
    "a notification": (0x30100101, BASE, NOT_IMPLEMENTED),
    "kind 4": (0x40100201, BASE, NOT_IMPLEMENTED),
    "kind 15": (0xFFFFFFFF, BASE, NOT_IMPLEMENTED),
    "second negotiation": (
        MessageType.NEGOTIATE_PROTOCOL,
        {**BASE, "MinimumVersion": 4, "MaximumVersion": 4},
        NOT_IMPLEMENTED,
    ),
    # Bodies
    "no body": (MessageType.START, b"", JSON),
    "white space": (MessageType.START, b" \n ", JSON),
    "no JSON": (MessageType.START, b"{nope", JSON),
    "two documents": (MessageType.START, b"{}\n{}", JSON),
    "an array": (MessageType.START, b"[]", JSON),
    "a text": (MessageType.START, b'"x"', JSON),
    "a number": (MessageType.START, b"5", JSON),
    "nul bytes": (MessageType.START, bytes(64), JSON),
    "deep and open": (MessageType.START, DEEP, JSON),
    "deep and closed": (MessageType.START, DEEP_CLOSED, JSON),
    "container id of the wrong type": (MessageType.START, {"ContainerId": 5}, JSON),
    "process id of the wrong type": (MessageType.WAIT_FOR_PROCESS, {"ProcessId": "x"}, JSON),
    "negative process id": (MessageType.WAIT_FOR_PROCESS, {"ProcessId": -1}, JSON),
    "process id over 32 bits": (MessageType.WAIT_FOR_PROCESS, {"ProcessId": 1 << 32}, JSON),
    "fraction": (MessageType.WAIT_FOR_PROCESS, {"ProcessId": 1.5}, JSON),
    "console height over 16 bits": (MessageType.RESIZE_CONSOLE, {"Height": 65536}, JSON),
    # Create
    "create without configuration": (MessageType.CREATE, BASE, JSON),
    "create with an array": (MessageType.CREATE, {**BASE, "ContainerConfig": "[]"}, JSON),
    "create without spec": (MessageType.CREATE, create(None), JSON),
    "create with a text for a spec": (MessageType.CREATE, create("spec"), JSON),
    "create without root": (MessageType.CREATE, create(specification(root="absent")), JSON),
    "create with null root": (MessageType.CREATE, create(specification(root=None)), JSON),
    "create without process": (MessageType.CREATE, create(specification(process="absent")), JSON),
    "create with null process": (MessageType.CREATE, create(specification(process=None)), JSON),
    "create without linux": (MessageType.CREATE, create(specification(linux="absent")), JSON),
    "create with null linux": (MessageType.CREATE, create(specification(linux=None)), JSON),
    "create with an old schema": (
        MessageType.CREATE,
        create(specification(), SchemaVersion={"Major": 2}),
        JSON,
    ),
    "create with a path for an id": (
        MessageType.CREATE,
        {**create(specification()), "ContainerId": "../../etc"},
        HResult.INVALID_ARGUMENT,
    ),
    # Execute
    "execute without settings": (MessageType.EXECUTE_PROCESS, BASE, JSON),
    "execute with bad parameters": (MessageType.EXECUTE_PROCESS, execute(UVM, "{"), JSON),
    "execute without command": (MessageType.EXECUTE_PROCESS, execute(UVM, {}), FAIL),
    "execute with an empty command": (
        MessageType.EXECUTE_PROCESS,
        execute(UVM, {"CommandLine": "  "}),
        FAIL,
    ),
    "execute something that isn't there": (
        MessageType.EXECUTE_PROCESS,
        execute(UVM, {"CommandArgs": ["/no/such/program"]}),
        FAIL,
    ),
    "execute with a port nobody listens on": (
        MessageType.EXECUTE_PROCESS,
        execute(UVM, {"CommandArgs": ["/bin/true"], "CreateStdOutPipe": True}, StdOut=0x40001234),
        FAIL,
    ),
    # Unknown things
    "execute in an unknown container": (
        MessageType.EXECUTE_PROCESS,
        execute("nobody", {}),
        NO_SYSTEM,
    ),
    "wait in an unknown container": (MessageType.WAIT_FOR_PROCESS, BASE, NO_SYSTEM),
    "wait for an unknown process": (MessageType.WAIT_FOR_PROCESS, WAIT, NO_PROCESS),
    "signal in an unknown container": (MessageType.SIGNAL_PROCESS, BASE, NO_SYSTEM),
    "resize in an unknown container": (MessageType.RESIZE_CONSOLE, BASE, NO_SYSTEM),
    "shutdown of an unknown container": (MessageType.SHUTDOWN_GRACEFUL, BASE, NO_SYSTEM),
    "kill of an unknown container": (MessageType.SHUTDOWN_FORCED, BASE, NO_SYSTEM),
    "properties of an unknown container": (MessageType.GET_PROPERTIES, BASE, NO_SYSTEM),
    "deletion of an unknown container": (MessageType.DELETE_CONTAINER_STATE, BASE, NO_SYSTEM),
    "malformed query": (MessageType.GET_PROPERTIES, {**BASE, "Query": "{"}, JSON),
    "unknown resource": (
        MessageType.MODIFY_SETTINGS,
        modify({"RequestType": "Add", "ResourceType": "Bogus", "Settings": {}}),
        FAIL,
    ),
    "no resource": (MessageType.MODIFY_SETTINGS, modify({}), FAIL),
    "no modification": (MessageType.MODIFY_SETTINGS, modify(None), JSON),
    "resource without settings": (
        MessageType.MODIFY_SETTINGS,
        modify({"ResourceType": "MappedVirtualDisk"}),
        JSON,
    ),
    "settings of the wrong type": (
        MessageType.MODIFY_SETTINGS,
        modify({"ResourceType": "CombinedLayers", "Settings": []}),
        JSON,
    ),
    "settings out of range": (
        MessageType.MODIFY_SETTINGS,
        modify({"ResourceType": "SCSIDevice", "Settings": {"Lun": 256}}),
        JSON,
    ),
    "controller that can't be": (
        MessageType.MODIFY_SETTINGS,
        modify(
            {
                "ResourceType": "MappedVirtualDisk",
                "Settings": {"Controller": 9, "MountPath": "/run/bad-input"},
            }
        ),
        FAIL,
    ),
}


async def test_requests_that_are_refused(agent: Rig, connection: HostConnection) -> None:
    for name, (message_type, body, result) in REFUSED.items():
        reply = await connection.rpc(message_type, body)
        assert reply.result == result, (name, reply.body)
        check_error(reply, message_type, result)
        echo = body.get("ActivityId") if isinstance(body, dict) else None
        assert reply.body.get("ActivityId") == echo, name
    await check_serving(connection, agent)


async def test_invalid_utf8_is_replaced_as_go_does(agent: Rig, connection: HostConnection) -> None:
    body = b'{"ContainerId":"\xff\xfe\x80"}'
    assert (await connection.rpc(MessageType.START, body)).result == 0
    reply = await connection.rpc(MessageType.GET_PROPERTIES, body)
    check_error(reply, MessageType.GET_PROPERTIES, NO_SYSTEM)
    await check_serving(connection, agent)


async def test_an_activity_id_is_echoed_or_left_out_but_never_empty(
    agent: Rig, connection: HostConnection
) -> None:
    for body, expected in (
        ({"ActivityId": ACTIVITY}, ACTIVITY),
        ({"activityid": ACTIVITY}, ACTIVITY),
        ({"ActivityId": ACTIVITY, "ContainerId": []}, ACTIVITY),
        ({"ActivityId": ""}, None),
        ({"ActivityId": None}, None),
        ({}, None),
    ):
        reply = await connection.rpc(MessageType.START, json.dumps(body).encode())
        assert reply.body.get("ActivityId", None) == expected
        assert ("ActivityId" in reply.body) == (expected is not None)
    # A host could not decode it, and the frame would be too long for it.
    huge = {"ActivityId": "x" * MEBIBYTE}
    assert "ActivityId" not in (await connection.rpc(MessageType.START, huge)).body
    await check_serving(connection, agent)


@pytest.mark.parametrize(
    "bad_frame",
    [
        header(MessageType.START, 0),
        header(MessageType.START, HEADER_SIZE - 1),
        header(MessageType.START, MAX_TO_GUEST + 1),
        header(MessageType.START, 0xFFFF_FFFF),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff" * 4096,
    ],
    ids=["size 0", "size 15", "over 64 MiB", "4 GiB", "HTTP", "ones"],
)
async def test_a_malformed_frame_costs_the_connection_and_no_more(
    agent: Rig, connection: HostConnection, bad_frame: bytes
) -> None:
    answered = await connection.rpc(MessageType.START, BASE)
    assert answered.result == 0
    await connection.send_raw(bad_frame)
    await connection.wait_closed()
    again = await agent.host.negotiated()
    await check_serving(again, agent)
    entry = await agent.agent.logged(lambda entry: "stream from the host" in entry.message)
    assert entry.level == "error"
    assert "bytes" in entry.message


async def test_requests_before_a_malformed_frame_are_carried_out(
    agent: Rig, connection: HostConnection
) -> None:
    body = json.dumps(execute(UVM, {"CommandArgs": ["/bin/true"]})).encode()
    good = header(MessageType.EXECUTE_PROCESS, HEADER_SIZE + len(body)) + body
    await connection.send_raw(good + header(MessageType.START, 3))
    await connection.wait_closed()
    await check_serving(await agent.host.negotiated(), agent)
    entry = await agent.agent.logged(
        lambda entry: (
            entry.fields.get("name") == "opengcs::bridge::request"
            and entry.fields["message-type"] == "Request/ExecuteProcess"
        )
    )
    assert entry.fields["message-id"] == 1
    assert entry.fields["cid"] == UVM


async def test_requests_before_negotiation_are_refused(agent: Rig) -> None:
    connection = await agent.host.connection()
    for message_type in (MessageType.START, MessageType.DUMP_STACKS, 0x10101101):
        reply = await connection.rpc(message_type, BASE)
        check_error(reply, message_type, NOT_IMPLEMENTED)
    negotiation = {"MinimumVersion": 5, "MaximumVersion": 9}
    reply = await connection.rpc(MessageType.NEGOTIATE_PROTOCOL, negotiation)
    check_error(reply, MessageType.NEGOTIATE_PROTOCOL, HResult.UNSUPPORTED_PROTOCOL_VERSION)
    assert (await connection.negotiate()).result == 0
    await check_serving(connection, agent)


async def test_requests_right_behind_the_negotiation_are_good(agent: Rig) -> None:
    connection = await agent.host.connection()
    negotiation = b'{"MinimumVersion":4,"MaximumVersion":4}'
    await connection.send_raw(
        header(MessageType.NEGOTIATE_PROTOCOL, HEADER_SIZE + len(negotiation), 0)
        + negotiation
        + header(MessageType.START, HEADER_SIZE + 2, 1)
        + b"{}"
        + header(MessageType.NEGOTIATE_PROTOCOL, HEADER_SIZE + len(negotiation), 2)
        + negotiation
    )
    async with asyncio.timeout(PATIENCE):
        replies = [await connection.strays.get() for _ in range(3)]
    assert {reply.id: reply.result for reply in replies} == {0: 0, 1: 0, 2: NOT_IMPLEMENTED}


async def test_duplicate_ids_in_flight_are_both_answered(
    agent: Rig, connection: HostConnection
) -> None:
    parameters = {"CommandArgs": ["/bin/sh", "-c", "exit 3"]}
    pids = [
        (await connection.rpc(MessageType.EXECUTE_PROCESS, execute(UVM, parameters))).body[
            "ProcessId"
        ]
        for _ in range(2)
    ]
    waits = [
        await connection.send(
            MessageType.WAIT_FOR_PROCESS,
            {"ContainerId": UVM, "ProcessId": pid, "TimeoutInMs": 0xFFFF_FFFF},
            sequence=77,
        )
        for pid in pids
    ]
    async with asyncio.timeout(PATIENCE):
        assert [(await wait).body["ExitCode"] for wait in waits] == [3, 3]
    await check_serving(connection, agent)


@pytest.mark.parametrize("piece", [1, 7, 15, 17])
async def test_fragmented_and_coalesced_frames(
    agent: Rig, connection: HostConnection, piece: int
) -> None:
    body = json.dumps(BASE).encode()
    stream = b"".join(
        header(MessageType.START, HEADER_SIZE + len(body), sequence) + body
        for sequence in range(100, 103)
    )
    for start in range(0, len(stream), piece):
        await connection.send_raw(stream[start : start + piece])
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        replies = [await connection.strays.get() for _ in range(3)]
    assert {reply.id for reply in replies} == {100, 101, 102}
    assert all(reply.result == 0 for reply in replies)
    await check_serving(connection, agent)


async def test_bodies_of_20_mib(agent: Rig, connection: HostConnection) -> None:
    """They are read, answered within the host's limit, and not kept."""
    size = 20 * MEBIBYTE
    small = await connection.rpc(MessageType.START, BASE)
    assert small.result == 0
    bodies: list[tuple[int, bytes, int]] = [
        (MessageType.START, b'{"ContainerId":"' + b"A" * size + b'"}', 0),
        (MessageType.GET_PROPERTIES, b'{"ContainerId":"' + b"\xc3\xa9" * (size // 2) + b'"}', -1),
        (MessageType.SIGNAL_PROCESS, b"A" * size, JSON),
        (MessageType.START, b'{"ContainerId":"' + b"A" * size, JSON),
        (MessageType.EXECUTE_PROCESS, b'{"ActivityId":"' + b"A" * size + b'"}', JSON),
        (MessageType.DUMP_STACKS, b"\x00" * size, 0),
        (0x1010FF01, b'{"x":"' + b"A" * size + b'"}', NOT_IMPLEMENTED),
        (MessageType.START, b'{"x":[' + b"[]," * (size // 3) + b"0]}", JSON),
    ]
    for message_type, body, result in bodies:
        reply = await connection.rpc(message_type, body)
        assert reply.size <= MAX_TO_HOST
        assert reply.type == response_type(message_type)
        assert result in (-1, reply.result), reply.body
    resident = []
    for _ in range(4):
        for message_type, body, _ in bodies:
            await connection.rpc(message_type, body)
        await connection.rpc(MessageType.START, BASE)
        resident.append(agent.agent.resident_bytes)
    # The C library keeps a buffer or two for the next such body; more would be a leak.
    assert max(resident) < 150 * MEBIBYTE
    assert resident[-1] - resident[1] < size
    await check_serving(connection, agent)


async def test_a_claimed_size_is_not_allocated(agent: Rig, connection: HostConnection) -> None:
    assert (await connection.rpc(MessageType.START, BASE)).result == 0
    before = agent.agent.resident_bytes
    await connection.send_raw(header(MessageType.START, 60 * MEBIBYTE) + b"x" * 100)
    connection.writer.write_eof()
    await connection.wait_closed()
    await agent.agent.logged(
        lambda entry: "closed by the host within a frame" in str(entry.fields.get("error"))
    )
    assert agent.agent.resident_bytes - before < 20 * MEBIBYTE
    await check_serving(await agent.host.negotiated(), agent)


async def test_error_texts_are_cut_to_fit(agent: Rig, connection: HostConnection) -> None:
    """Also where quoting makes a text six times as long."""
    for text in ("A", "\u00e9", "\U0001f600", '"', "\u0001"):
        command = {"CommandArgs": ["/no/such/" + text * (MEBIBYTE // 4)]}
        reply = await connection.rpc(MessageType.EXECUTE_PROCESS, execute(UVM, command))
        check_error(reply, MessageType.EXECUTE_PROCESS, FAIL)
    await check_serving(connection, agent)
