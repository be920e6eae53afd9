"""The bridge over a socket pair: routing, order, what survives a connection."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from gcs.bridge import bridge as bridge_module, router as router_module
from gcs.bridge.negotiation import negotiate
from gcs.bridge.request import Request
from gcs.protocol.errors import UnsupportedProtocolVersionError
from gcs.protocol.frame import MAX_TO_HOST, Header, MessageType
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from gcs.protocol.responses import Notification, ProcessDetails, Response
from tests.unit.bridge.bridge_support import NEGOTIATION, Stage, frame, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gcs.bridge.services import Services

ACTIVITY = "11111111-2222-3333-4444-555555555555"
UNKNOWN = 0x1010FF01
NEGOTIATED, WAITED = 0x20100B01, 0x20100601


@pytest.fixture
async def on() -> AsyncIterator[Stage]:
    async with stage() as made:
        yield made


async def turns(count: int = 20) -> None:
    """Let everything that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Run the loop until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing sets an event when code under test logs
            await asyncio.sleep(0)


# Routing


async def test_an_unknown_message_is_answered(on: Stage) -> None:
    connection = await on.negotiated()
    reply = await connection.rpc(UNKNOWN, {"ActivityId": ACTIVITY}, sequence=1 << 63)
    assert (reply.type, reply.id) == (0x2010FF01, 1 << 63)
    assert reply.result == HResult.NOT_IMPLEMENTED
    assert reply.body["ActivityId"] == ACTIVITY
    assert len(reply.body["ErrorRecords"]) == 1


async def test_a_handler_gets_the_request_and_its_response_goes_back(on: Stage) -> None:
    seen: list[Request] = []
    hosts: list[object] = []

    async def handler(services: Services, request: Request) -> Response:
        seen.append(request)
        hosts.append(services.host)
        return Response()

    on.handlers[UNKNOWN] = handler
    connection = await on.negotiated()
    reply = await connection.rpc(UNKNOWN, {"ContainerId": "c", "ActivityId": ACTIVITY})
    assert reply.body == {"Result": 0, "ActivityId": ACTIVITY}
    assert hosts == [on.runtime]
    (request,) = seen
    assert (request.container_id, request.activity_id) == ("c", ACTIVITY)
    assert (request.type, request.id) == (UNKNOWN, reply.id)


async def test_responses_come_in_any_order(on: Stage) -> None:
    connection = await on.negotiated()
    on.runtime.hold.clear()
    first = await connection.send(MessageType.SIGNAL_PROCESS, {"ProcessId": 1})
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert not first.done()
    on.runtime.hold.set()
    assert (await first).result == 0


async def test_the_order_of_arrival_decides_about_versions(on: Stage) -> None:
    connection = await on.connect()
    await connection.send_raw(
        frame(MessageType.START, sequence=1)
        + frame(MessageType.NEGOTIATE_PROTOCOL, NEGOTIATION, 2)
        + frame(MessageType.START, sequence=3)
        + frame(MessageType.NEGOTIATE_PROTOCOL, NEGOTIATION, 4)
    )
    results = {}
    for _ in range(4):
        reply = await connection.strays.get()
        results[reply.id] = reply.result
    refused = HResult.NOT_IMPLEMENTED
    assert results == {1: refused, 2: 0, 3: 0, 4: refused}


async def test_nothing_is_loaded_before_the_negotiation_and_once_after(on: Stage) -> None:
    connection = await on.connect()
    await connection.rpc(MessageType.START, {})
    assert on.loads == 0
    await connection.negotiate()
    await connection.rpc(MessageType.START, {})
    await on.disconnect(connection)
    await on.negotiated()
    assert on.loads == 1


@pytest.mark.parametrize(
    ("lowest", "highest", "good"),
    [(4, 4, True), (4, 9, True), (0, 4, True), (0, 3, False), (5, 9, False), (0, 0, False)],
)
def test_version_ranges(lowest: int, highest: int, good: bool) -> None:
    body = json.dumps({"MinimumVersion": lowest, "MaximumVersion": highest}).encode()
    request = Request(Header(MessageType.NEGOTIATE_PROTOCOL, 0, 0), body)
    if good:
        assert negotiate(request).version == 4
    else:
        with pytest.raises(UnsupportedProtocolVersionError, match=f"{lowest} to {highest}"):
            negotiate(request)


async def test_disabled_means_that_nothing_is_known() -> None:
    async with stage(enabled=False) as off:
        connection = await off.connect()
        for message_type in (MessageType.NEGOTIATE_PROTOCOL, MessageType.START, 0):
            reply = await connection.rpc(message_type, NEGOTIATION)
            assert reply.result == HResult.NOT_IMPLEMENTED


# Errors


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("x"),
        SystemExit(3),
        asyncio.CancelledError(),
        MemoryError(),
        ExceptionGroup("several", [ValueError("x")]),
        TimeoutError("x"),
        RecursionError("x"),
    ],
)
async def test_whatever_escapes_a_handler(
    on: Stage, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(services: Services, request: Request) -> Response:
        raise error

    on.handlers[UNKNOWN] = handler
    connection = await on.negotiated()
    reply = await connection.rpc(UNKNOWN, {"ActivityId": ACTIVITY})
    assert reply.result == HResult.FAIL
    assert reply.body["ErrorMessage"]
    assert reply.body["ActivityId"] == ACTIVITY
    (failed,) = [record for record in caplog.records if record.message == "request failed"]
    assert failed.exc_info is not None
    assert (await connection.rpc(MessageType.START, {})).result == 0


async def test_a_response_that_can_not_be_encoded_is_still_answered(on: Stage) -> None:
    async def handler(services: Services, request: Request) -> Response:
        return Response(error_message="half \ud800")

    on.handlers[UNKNOWN] = handler
    connection = await on.negotiated()
    reply = await connection.rpc(UNKNOWN, {})
    assert reply.result == HResult.FAIL
    assert "malformed" in reply.body["ErrorMessage"]


async def test_a_request_that_takes_too_long_is_cancelled(
    on: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router_module, "REQUEST_SECONDS", 0.01)
    on.runtime.hold.clear()
    connection = await on.negotiated()
    wait = await connection.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 1})
    reply = await connection.rpc(MessageType.SIGNAL_PROCESS, {"ProcessId": 2})
    assert reply.result == HResult.TIMEOUT
    assert "given up after 0.01 s" in reply.body["ErrorMessage"]
    assert "signal 2 cancelled" in on.runtime.log
    on.runtime.process(1).set_result(5)  # a wait has no such limit
    assert (await wait).body["ExitCode"] == 5


async def test_too_many_requests_at_once(on: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "MAX_REQUESTS", 3)
    connection = await on.negotiated()
    waits = [
        await connection.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 1}) for _ in range(3)
    ]
    reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 1})
    assert reply.result == HResult.FAIL
    on.runtime.process(1).set_result(0)
    for wait in waits:
        await wait
    assert (await connection.rpc(MessageType.START, {})).result == 0


# What survives a connection


async def test_an_answered_wait_is_told_so_after_its_response(on: Stage) -> None:
    connection = await on.negotiated()
    on.runtime.process(7).set_result(3)
    reply = await connection.rpc(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 7})
    assert reply.body["ExitCode"] == 3
    assert on.runtime.log == ["wait 7", "answered"]


async def test_a_wait_that_ends_while_disconnected_is_answered_after_the_negotiation(
    on: Stage,
) -> None:
    first = await on.negotiated()
    await first.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 7}, sequence=42)
    await first.rpc(MessageType.START, {})
    await on.disconnect(first)
    on.runtime.process(7).set_result(3)
    await turns()
    assert on.runtime.log == ["wait 7", "answered"]
    on.bridge.publish(Notification(container_id="c", type="UnexpectedExit"))
    second = await on.connect()
    answer = second.expect(42)
    refused = await second.rpc(MessageType.START, {})
    assert refused.result == HResult.NOT_IMPLEMENTED
    await second.negotiate()
    assert (await answer).body["ExitCode"] == 3
    assert (await second.notifications.get())["ContainerId"] == "c"
    assert second.order[1:] == [NEGOTIATED, WAITED, MessageType.NOTIFICATION]


async def test_an_error_of_a_wait_is_kept_as_well(on: Stage) -> None:
    first = await on.negotiated()
    await first.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 7}, sequence=42)
    await first.rpc(MessageType.START, {})
    await on.disconnect(first)
    on.runtime.process(7).set_exception(RuntimeError("x"))
    second = await on.connect()
    answer = second.expect(42)
    await second.negotiate()
    assert (await answer).result == HResult.FAIL


async def test_other_responses_end_with_their_connection(
    on: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The host that sent the request has forgotten it; an unknown id would upset the next one."""
    caplog.set_level(logging.INFO)
    first = await on.negotiated()
    on.runtime.hold.clear()
    await first.send(MessageType.SIGNAL_PROCESS, {"ProcessId": 1})
    await first.rpc(MessageType.START, {})
    await on.disconnect(first)
    second = await on.negotiated()
    on.runtime.hold.set()
    assert (await second.rpc(MessageType.START, {})).result == 0
    assert second.strays.empty()
    assert "response dropped" in caplog.text
    assert on.runtime.log == ["signal 1 0 begins", "signal 1 ends"]


async def test_notifications_wait_for_a_host_and_keep_their_order(on: Stage) -> None:
    """Never connected, connected but not negotiated, negotiated, disconnected: several times."""
    on.bridge.publish(Notification(container_id="0"))
    for turn in range(3):
        connection = await on.connect()
        on.bridge.publish(Notification(container_id=f"{turn}a"))
        await connection.negotiate()
        on.bridge.publish(Notification(container_id=f"{turn}b"))
        expected = ["0" if turn == 0 else f"{turn - 1}c", f"{turn}a", f"{turn}b"]
        received = [(await connection.notifications.get())["ContainerId"] for _ in expected]
        assert received == expected
        await on.disconnect(connection)
        on.bridge.publish(Notification(container_id=f"{turn}c"))


async def test_what_a_lost_connection_did_not_take_goes_to_the_next(on: Stage) -> None:
    """Notifications and wait responses behind a host that stopped reading."""
    first = await on.negotiated()
    first.writer.transport.pause_reading()  # type: ignore[attr-defined]
    count = 40
    for pid in range(count):
        await first.send(MessageType.DELETE_CONTAINER_STATE, {})  # 48 kB of error text
        await first.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": pid}, sequence=1000 + pid)
    await until(lambda: sum(entry.startswith("wait") for entry in on.runtime.log) == count)
    for pid in range(count):
        on.runtime.process(pid).set_result(pid)
    await turns()
    await on.disconnect(first)
    second = await on.connect()
    await second.negotiate()
    await second.rpc(MessageType.START, {})
    kept = [second.strays.get_nowait() for _ in range(second.strays.qsize())]
    assert kept
    assert {reply.type for reply in kept} == {WAITED}
    # In order and without a gap: what is missing in front was read by the kernel for the first.
    ids = [reply.id for reply in kept]
    assert ids == list(range(1000 + count - len(ids), 1000 + count))


async def test_a_lost_connection_has_a_reason(on: Stage) -> None:
    connection = await on.negotiated()
    connection.writer.write_eof()
    assert on.serving is not None
    assert await on.serving == "EOF"
    connection = await on.negotiated()
    await connection.send_raw(frame(MessageType.START)[:12])
    connection.writer.write_eof()
    assert on.serving is not None
    assert await on.serving == "closed by the host within a frame (12 of 16 bytes of a header)"
    connection = await on.negotiated()
    await connection.send_raw(b"\xff" * 16)
    assert on.serving is not None
    assert await on.serving == "malformed frame"


# Sequential mode


async def test_sequential_mode_carries_out_one_request_at_a_time() -> None:
    async with stage(sequential=True) as on:
        connection = await on.negotiated()
        on.runtime.hold.clear()
        signals = [
            await connection.send(MessageType.SIGNAL_PROCESS, {"ProcessId": pid}) for pid in (1, 2)
        ]
        wait = await connection.send(MessageType.WAIT_FOR_PROCESS, {"ProcessId": 9})
        last = await connection.send(MessageType.SIGNAL_PROCESS, {"ProcessId": 3})
        await until(lambda: bool(on.runtime.log))
        await turns()
        assert on.runtime.log == ["signal 1 0 begins"]
        on.runtime.hold.set()
        for answer in (*signals, last):
            assert (await answer).result == 0
        # The wait began after what came before it, and held nothing up.
        assert on.runtime.log == [
            *("signal 1 0 begins", "signal 1 ends", "signal 2 0 begins", "signal 2 ends"),
            *("wait 9", "signal 3 0 begins", "signal 3 ends"),
        ]
        assert not wait.done()
        on.runtime.process(9).set_result(0)
        assert (await wait).result == 0


async def test_a_slow_sequential_request_is_worth_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(router_module, "SLOW_SECONDS", 0.0)
    async with stage(sequential=True) as on:
        connection = await on.negotiated()
        on.runtime.hold.clear()
        answer = await connection.send(
            MessageType.SIGNAL_PROCESS, {"ContainerId": "c", "ActivityId": ACTIVITY}, sequence=5
        )
        await until(lambda: "request is slow" in caplog.text)
        on.runtime.hold.set()
        await answer
    (slow,) = [record for record in caplog.records if record.message == "request is slow"]
    fields = {
        "message-type": "Request/SignalProcess",
        "message-id": 5,
        "activity-id": ACTIVITY,
        "container-id": "c",
    }
    assert fields.items() <= slow.__dict__.items()


# Single requests


@pytest.mark.parametrize(
    "message_type", [MessageType.SHUTDOWN_GRACEFUL, MessageType.SHUTDOWN_FORCED]
)
async def test_shutdown_of_the_vm_has_no_answer(on: Stage, message_type: int) -> None:
    connection = await on.negotiated()
    answer = await connection.send(message_type, {"ContainerId": UVM_ID})
    await connection.rpc(MessageType.START, {})
    assert on.shut_downs == 1
    assert not answer.done()
    reply = await connection.rpc(message_type, {"ContainerId": "c"})
    assert reply.result == HResult.SYSTEM_NOT_FOUND
    assert on.shut_downs == 1


async def test_as_many_processes_as_fit(on: Stage) -> None:
    """Of 20,000, the first; and next to none of the room is wasted."""
    on.runtime.properties_to_report.process_list = [
        ProcessDetails(process_id=pid) for pid in range(4_000_000_000, 4_000_020_000)
    ]
    connection = await on.negotiated()
    reply = await connection.rpc(MessageType.GET_PROPERTIES, {"ActivityId": ACTIVITY})
    assert 60_000 < reply.size <= MAX_TO_HOST
    processes = json.loads(reply.body["Properties"])["ProcessList"]
    assert processes == [{"ProcessId": 4_000_000_000 + index} for index in range(len(processes))]
    assert len(processes) > 1000


async def test_metrics_without_the_lists_that_do_not_fit(on: Stage) -> None:
    devices = [{"device": f"/dev/sd{number}", "op": "Read"} for number in range(5000)]
    on.runtime.properties_to_report.process_list = [ProcessDetails(process_id=1)] * 20_000
    on.runtime.properties_to_report.metrics = {
        "blkio": {"io_serviced_recursive": devices, "sectors_recursive": devices[:10]},
        "cpu": {"usage": {"total": 5, "per_cpu": [1, 2]}},
    }
    connection = await on.negotiated()
    reply = await connection.rpc(MessageType.GET_PROPERTIES, {})
    assert reply.size <= MAX_TO_HOST
    assert json.loads(reply.body["Properties"])["LCOWMetrics"] == {
        "blkio": {"sectors_recursive": devices[:10]},
        "cpu": {"usage": {"total": 5, "per_cpu": [1, 2]}},
    }


async def test_closing_cancels_and_waits_for_what_is_carried_out(on: Stage) -> None:
    connection = await on.negotiated()
    on.runtime.hold.clear()
    await connection.send(MessageType.SIGNAL_PROCESS, {"ProcessId": 1})
    await connection.rpc(MessageType.START, {})
    await on.bridge.close()
    assert on.runtime.log == ["signal 1 0 begins", "signal 1 cancelled"]
    await connection.wait_closed()
