"""The host's end of the bridge, against a guest that does as it is told (spec 1.4, 10.9)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import FramingError, RemoteError
from gcs.protocol.frame import MAX_TO_HOST, MessageType, encode_frame, response_type
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from gcs.protocol.requests import ContainerSettings, ProcessParameters
from tests.support.fakeguest import Call, FakeGuest
from uvm.bridge import BridgeConnection, GuestClient
from uvm.errors import BridgeClosedError, BridgeTimeoutError, UvmError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = "c" * 64


class Pair:
    """A host client and a fake guest, connected."""

    def __init__(self) -> None:
        self.guest = FakeGuest()
        self.client = GuestClient()

    async def open(self, **options: Any) -> None:
        ours, theirs = socket.socketpair()
        self.client = GuestClient(**options)
        await self.client.open(ours)
        await self.guest.serve(*await asyncio.open_connection(sock=theirs))

    async def close(self) -> None:
        await self.client.close()
        await self.guest.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    await pair.open()
    yield pair
    await pair.close()


async def never(_: Call) -> None:
    await asyncio.Event().wait()


def refuse(hresult: HResult, text: str) -> Any:
    async def handler(_: Call) -> dict[str, Any]:
        return {"Result": hresult - (1 << 32), "ErrorMessage": text}

    return handler


async def test_a_request_gets_the_answer_with_its_id_and_type(pair: Pair) -> None:
    await pair.client.start_container("one")
    await pair.client.start_container("two")
    assert [(call.type, call.id) for call in pair.guest.calls] == [
        (MessageType.START, 0),
        (MessageType.START, 1),
    ]
    assert pair.guest.calls[0].text.endswith("}\n")
    assert pair.client.connection.outstanding == []


async def test_answers_may_come_in_any_order(pair: Pair) -> None:
    release = asyncio.Event()

    async def wait(call: Call) -> dict[str, Any]:
        if call.body["ProcessId"] == 1:
            await release.wait()
        return {"ExitCode": call.body["ProcessId"] + 40}

    pair.guest.handlers[MessageType.WAIT_FOR_PROCESS] = wait
    first = asyncio.create_task(pair.client.wait_for_process(ID, 1))
    assert await pair.client.wait_for_process(ID, 2) == 42
    assert not first.done()
    release.set()
    assert await first == 41


async def test_sixty_four_requests_in_flight_all_get_their_own_answer(pair: Pair) -> None:
    async def execute(call: Call) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"ProcessId": int(call.body["ContainerId"])}

    pair.guest.handlers[MessageType.EXECUTE_PROCESS] = execute
    pids = await asyncio.gather(
        *(pair.client.execute_process(str(n), ProcessParameters()) for n in range(64))
    )
    assert pids == list(range(64))


async def test_negotiation_returns_the_capabilities(pair: Pair) -> None:
    capabilities = await pair.client.negotiate()
    assert capabilities.runtime_os_type == "Linux"
    assert capabilities.guest_defined_capabilities.signal_process_supported
    assert json.loads(pair.guest.calls[0].text) == {
        "ContainerId": "",
        "ActivityId": "00000000-0000-0000-0000-000000000000",
        "MinimumVersion": 4,
        "MaximumVersion": 4,
    }


async def test_another_protocol_version_is_refused(pair: Pair) -> None:
    async def three(_: Call) -> dict[str, Any]:
        return {"Version": 3}

    pair.guest.handlers[MessageType.NEGOTIATE_PROTOCOL] = three
    with pytest.raises(UvmError, match="version 3"):
        await pair.client.negotiate()


async def test_an_error_answer_raises_with_its_result_and_text(pair: Pair) -> None:
    pair.guest.handlers[MessageType.START] = refuse(HResult.SYSTEM_NOT_FOUND, "no such container")
    with pytest.raises(RemoteError, match=r"no such container.*SYSTEM_NOT_FOUND") as failure:
        await pair.client.start_container(ID)
    assert failure.value.hresult == HResult.SYSTEM_NOT_FOUND
    pair.guest.handlers.clear()
    await pair.client.start_container(ID)


async def test_an_answer_that_does_not_come_closes_the_bridge() -> None:
    pair = Pair()
    await pair.open(answer_limit=0.05)
    pair.guest.handlers[MessageType.START] = never
    waiting = asyncio.create_task(pair.client.wait_for_process(ID, 1))
    pair.guest.handlers[MessageType.WAIT_FOR_PROCESS] = never
    with pytest.raises(BridgeTimeoutError, match="Request/Start"):
        await pair.client.start_container(ID)
    with pytest.raises(BridgeClosedError):
        await waiting
    with pytest.raises(BridgeTimeoutError):
        await pair.client.start_container(ID)
    await pair.close()


async def test_a_call_that_is_given_up_leaves_the_bridge_alive(pair: Pair) -> None:
    release = asyncio.Event()

    async def late(_: Call) -> dict[str, Any]:
        await release.wait()
        return {}

    pair.guest.handlers[MessageType.START] = late
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pair.client.start_container(ID), 0.01)
    assert pair.client.connection.outstanding == [0]
    release.set()
    assert await pair.client.dump_stacks() == ""
    assert pair.client.connection.outstanding == []


async def test_the_end_of_the_connection_fails_every_call(pair: Pair) -> None:
    pair.guest.handlers[MessageType.WAIT_FOR_PROCESS] = never
    waits = [asyncio.create_task(pair.client.wait_for_process(ID, pid)) for pid in (1, 2)]
    await pair.client.start_container(ID)
    await pair.guest.close()
    for wait in waits:
        with pytest.raises(BridgeClosedError):
            await wait
    assert await pair.client.connection.wait_closed() is None
    with pytest.raises(BridgeClosedError):
        await pair.client.start_container(ID)


async def test_a_message_cut_off_in_the_middle_is_an_unclean_end(pair: Pair) -> None:
    pair.guest.writer.write(struct.pack("<IIQ", 0x20100201, 100, 0) + b"{")
    await pair.guest.close()
    assert isinstance(await pair.client.connection.wait_closed(), FramingError | OSError)


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<IIQ", 0x20100201, 15, 0),
        struct.pack("<IIQ", 0x20100201, MAX_TO_HOST + 1, 0),
        struct.pack("<IIQ", 0x20100201, 0xFFFF_FFFF, 0),
        encode_frame(0x20100201, 77, b"{}", limit=MAX_TO_HOST),
        encode_frame(0x10100201, 0, b"{}", limit=MAX_TO_HOST),
        encode_frame(0x30100201, 0, b"{}", limit=MAX_TO_HOST),
        encode_frame(MessageType.NOTIFICATION, 0, b"nonsense", limit=MAX_TO_HOST),
        encode_frame(MessageType.NOTIFICATION, 0, b'{"ContainerId":"x"}', limit=MAX_TO_HOST),
    ],
    ids=["short", "long", "absurd", "unknown-id", "request", "kind", "json", "unknown-container"],
)
async def test_what_a_real_host_does_not_stand_ends_the_bridge(pair: Pair, frame: bytes) -> None:
    pair.guest.handlers[MessageType.WAIT_FOR_PROCESS] = never
    waiting = asyncio.create_task(pair.client.wait_for_process(ID, 1))
    await pair.client.start_container(ID)
    pair.guest.writer.write(frame)
    with pytest.raises(BridgeClosedError):
        await waiting
    assert await pair.client.connection.wait_closed() is not None


async def test_an_answer_of_the_wrong_type_ends_the_bridge(pair: Pair) -> None:
    pair.guest.handlers[MessageType.WAIT_FOR_PROCESS] = never
    waiting = asyncio.create_task(pair.client.wait_for_process(ID, 1))
    await asyncio.sleep(0)
    await pair.client.start_container(ID)
    pair.guest.send(response_type(MessageType.START), pair.guest.calls[0].id, {"Result": 0})
    with pytest.raises(BridgeClosedError, match="as an answer to Request/WaitForProcess"):
        await waiting


async def test_an_answer_that_is_no_json_ends_the_bridge(pair: Pair) -> None:
    pair.guest.handlers[MessageType.START] = never
    call = asyncio.create_task(pair.client.start_container(ID))
    await asyncio.sleep(0)
    await pair.client.dump_stacks()
    pair.guest.send(response_type(MessageType.START), pair.guest.calls[0].id, b"nonsense")
    with pytest.raises(Exception, match="not valid JSON"):
        await call
    assert pair.client.connection.closed


async def test_frames_may_come_in_pieces_and_glued_together() -> None:
    ours, theirs = socket.socketpair()
    received: list[bytes] = []
    connection = await BridgeConnection.open(ours, received.append)
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    first = asyncio.create_task(connection.call(MessageType.START, b"{}"))
    second = asyncio.create_task(connection.call(MessageType.START, b"{}"))
    await loop.sock_recv(theirs, 1000)
    answer = response_type(MessageType.START)
    stream = (
        encode_frame(answer, 1, b'{"n":1}', limit=MAX_TO_HOST)
        + encode_frame(MessageType.NOTIFICATION, 0, b'{"x":2}', limit=MAX_TO_HOST)
        + encode_frame(answer, 0, b"", limit=MAX_TO_HOST)
    )
    for byte in stream:
        await loop.sock_sendall(theirs, bytes([byte]))
    assert await first == b""
    assert await second == b'{"n":1}'
    assert received == [b'{"x":2}']
    await connection.close()
    theirs.close()


async def test_the_exit_of_a_container_is_collected_once(pair: Pair) -> None:
    await pair.client.create_container(ID, ContainerSettings())
    pair.guest.notify_exit(ID, "ForcedExit")
    notification = await pair.client.wait_for_exit(ID)
    assert (notification.container_id, notification.type) == (ID, "ForcedExit")
    pair.guest.notify_exit(ID)
    assert isinstance(await pair.client.connection.wait_closed(), UvmError)


async def test_a_container_that_was_not_created_has_no_exit(pair: Pair) -> None:
    pair.guest.handlers[MessageType.CREATE] = refuse(HResult.FAIL, "no root")
    with pytest.raises(RemoteError, match="no root"):
        await pair.client.create_container(ID, ContainerSettings())
    with pytest.raises(UvmError, match="was not created"):
        await pair.client.wait_for_exit(ID)


async def test_waiting_for_an_exit_ends_with_the_bridge(pair: Pair) -> None:
    await pair.client.create_container(ID, ContainerSettings())
    waiting = asyncio.create_task(pair.client.wait_for_exit(ID))
    await pair.guest.close()
    with pytest.raises(BridgeClosedError, match="before container"):
        await waiting


async def test_a_power_off_is_over_when_the_connection_ends(pair: Pair) -> None:
    async def power_off(_: Call) -> None:
        pair.guest.writer.close()

    pair.guest.handlers[MessageType.SHUTDOWN_GRACEFUL] = power_off
    await pair.client.power_off()
    assert pair.guest.calls[0].body["ContainerId"] == UVM_ID


async def test_requests_longer_than_the_host_takes_answers_go_out(pair: Pair) -> None:
    text = "x" * (1 << 20)
    await pair.client.modify_settings("Add", "SecurityPolicyFragment", {"Fragment": text})
    assert pair.guest.calls[0].body["Request"]["Settings"]["Fragment"] == text


async def test_properties_are_decoded(pair: Pair) -> None:
    async def properties(call: Call) -> dict[str, Any]:
        assert json.loads(call.body["Query"]) == {"PropertyTypes": ["ProcessList"]}
        return {"Properties": json.dumps({"ProcessList": [{"ProcessId": 7}]})}

    pair.guest.handlers[MessageType.GET_PROPERTIES] = properties
    found = await pair.client.get_properties(ID, "ProcessList")
    assert [process.process_id for process in found.process_list] == [7]


async def test_no_call_without_a_connection() -> None:
    with pytest.raises(BridgeClosedError, match="not connected yet"):
        await GuestClient().dump_stacks()
    with contextlib.suppress(BridgeClosedError):
        await GuestClient().close()
