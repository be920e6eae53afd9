"""Spans and dumps of requests in the agent's log, as a host reads them (spec 2.2, appendix C)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import MessageType
from gcs.protocol.hresult import HResult
from tests.support.fakehost import ACTIVITY, UVM, FakeHost, rig
from tests.support.rootfs import specification

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gcs.protocol.logs import LogEntry
    from tests.support.fakehost import HostConnection, Launcher, Rig

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CARRIER = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "tracestate": "vendor=x"}
SECRET = "hunter2"
REQUEST = "opengcs::bridge::request"


def named(name: str, **fields: object) -> Callable[[LogEntry], bool]:
    """Matches a span."""
    return lambda entry: (
        entry.message == "Span"
        and ({"name": f"opengcs::bridge::{name}", **fields}.items() <= entry.fields.items())
    )


async def test_a_request_and_its_handler(agent: Rig, connection: HostConnection) -> None:
    body = {
        "ContainerId": "nobody",
        "ActivityId": ACTIVITY,
        "otsc": CARRIER,
        "ProcessId": 7,
        "Options": {"Signal": 15},
    }
    reply = await connection.rpc(MessageType.SIGNAL_PROCESS, body)
    assert reply.result == HResult.SYSTEM_NOT_FOUND
    request = await agent.agent.logged(named("request", traceID=TRACE_ID))
    handler = await agent.agent.logged(named("signalProcessV2"))
    fields = request.fields
    assert request.level == "error"
    assert {
        "parentSpanID": SPAN_ID,
        "traceState": "vendor=x",
        "spanKind": "server",
        "message-id": reply.id,
        "message-type": "Request/SignalProcess",
        "response-message-type": "Response/SignalProcess",
        "activityID": ACTIVITY,
        "cid": "nobody",
        "errorCode": "0xc037010e",
    }.items() <= fields.items()
    assert "'nobody' does not exist" in fields["error"]
    assert handler.fields["parentSpanID"] == fields["spanID"]
    assert handler.fields["traceID"] == TRACE_ID
    assert {"cid": "nobody", "pid": 7, "signal": 15}.items() <= handler.fields.items()
    assert fields["startTime"] <= handler.fields["startTime"] <= handler.fields["endTime"]
    assert handler.fields["endTime"] <= fields["endTime"]
    # What was logged in between says to which request it belongs.
    failed = await agent.agent.logged(lambda entry: entry.message == "request failed")
    assert failed.fields["traceID"] == TRACE_ID
    assert failed.fields["spanID"] == fields["spanID"]


@pytest.mark.parametrize(
    ("message_type", "body", "name", "attributes"),
    [
        (MessageType.START, {}, "startContainerV2", {}),
        (MessageType.CREATE, {}, "createContainerV2", {}),
        (MessageType.EXECUTE_PROCESS, {}, "execProcessV2", {}),
        (MessageType.SHUTDOWN_GRACEFUL, {}, "shutdownContainerV2", {"graceful": True}),
        (MessageType.SHUTDOWN_FORCED, {}, "killContainerV2", {"graceful": False}),
        (MessageType.GET_PROPERTIES, {}, "getPropertiesV2", {}),
        (MessageType.DUMP_STACKS, {}, "dumpStacksV2", {}),
        (MessageType.DELETE_CONTAINER_STATE, {}, "deleteContainerStateV2", {}),
        (
            MessageType.MODIFY_SETTINGS,
            {"Request": {"ResourceType": "Network", "RequestType": "Remove"}},
            "modifySettingsV2",
            {"resourceType": "Network", "requestType": "Remove"},
        ),
        (
            MessageType.WAIT_FOR_PROCESS,
            {"ProcessId": 9, "TimeoutInMs": 50},
            "waitOnProcessV2",
            {"pid": 9, "timeout-ms": 50},
        ),
        (
            MessageType.RESIZE_CONSOLE,
            {"ProcessId": 9, "Height": 2, "Width": 3},
            "resizeConsoleV2",
            {"pid": 9, "height": 2, "width": 3},
        ),
    ],
)
async def test_the_names_operators_know(
    agent: Rig,
    connection: HostConnection,
    message_type: int,
    body: dict[str, Any],
    name: str,
    attributes: dict[str, object],
) -> None:
    await connection.rpc(message_type, {"ContainerId": "nobody", **body})
    await agent.agent.logged(named(name, cid="nobody", **attributes))
    await agent.agent.logged(named("negotiateProtocolV2"))


async def test_no_span_survives_its_request(agent: Rig, connection: HostConnection) -> None:
    """What is logged later, about connections for instance, belongs to no request."""
    assert (await connection.rpc(MessageType.START, {"otsc": CARRIER})).result == 0
    connection.close()
    lost = await agent.agent.logged(lambda entry: "connection lost" in entry.message)
    assert "traceID" not in lost.fields
    again = await agent.host.negotiated()
    assert (await again.rpc(MessageType.START, {})).result == 0
    others = [entry for entry in agent.agent.entries if entry.fields.get("name") == REQUEST]
    assert len([entry for entry in others if entry.fields["traceID"] == TRACE_ID]) == 1


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "nonsense"}, {"baggage": "a=b"}])
async def test_without_a_host_s_span_a_trace_begins_here(
    agent: Rig, connection: HostConnection, carrier: dict[str, str]
) -> None:
    reply = await connection.rpc(MessageType.START, {"otsc": carrier})
    assert reply.result == 0
    entry = await agent.agent.logged(named("request", **{"message-id": reply.id}))
    assert "parentSpanID" not in entry.fields
    assert len(entry.fields["traceID"]) == 32


async def test_spans_are_of_no_interest_to_a_log_of_warnings(
    launch: Launcher, tmp_path: Path
) -> None:
    host = FakeHost(str(tmp_path / "h"))
    await host.listen()
    flags = ("-v4", "-log-format", "json", "-loglevel", "warning")
    agent = await launch(*flags, "-transport", f"unix:{host.prefix}")
    connection = await host.negotiated()
    assert (await connection.rpc(MessageType.START, {})).result == 0
    assert (await connection.rpc(MessageType.GET_PROPERTIES, {"ContainerId": "x"})).result
    assert await agent.stop() == 0
    await host.close()
    spans = [entry for entry in agent.entries if entry.message == "Span"]
    assert {entry.level for entry in spans} == {"error"}


def secret_requests() -> list[tuple[int, dict[str, Any]]]:
    spec = {
        "process": {"args": ["sh"], "cwd": "/", "env": [f"A={SECRET}"]},
        "annotations": {"a": SECRET},
    }
    config = {"SchemaVersion": {"Major": 2, "Minor": 1}, "OciSpecification": spec}
    parameters = {"CommandArgs": ["/bin/true"], "Environment": {"A": SECRET}}
    return [
        (MessageType.CREATE, {"ContainerId": "x", "ContainerConfig": json.dumps(config)}),
        (
            MessageType.EXECUTE_PROCESS,
            {"ContainerId": UVM, "Settings": {"ProcessParameters": json.dumps(parameters)}},
        ),
    ]


async def messages(*arguments: str) -> list[LogEntry]:
    """Entries that show a request or a response, after some with secrets."""
    async with rig(("-loglevel", "trace", *arguments)) as running:
        connection = await running.host.negotiated()
        for message_type, body in secret_requests():
            await connection.rpc(message_type, body)
        assert await running.agent.stop() == 0
        shown = [entry for entry in running.agent.entries if "message" in entry.fields]
        assert {entry.message for entry in shown} == {
            "request read message",
            "request write response",
        }
        assert {entry.level for entry in shown} == {"trace"}
        assert len(shown) == 6
        assert all(len(entry.fields["traceID"]) == 32 for entry in shown)
        everything = b"".join(running.agent.lines)
        assert (SECRET.encode() in everything) == bool(arguments)
        return shown


async def test_secrets_of_requests_are_not_logged() -> None:
    shown = await messages()
    texts = [entry.fields["message"] for entry in shown]
    assert any('"MaximumVersion": 4' in text for text in texts)
    assert sum("<scrubbed>" in text for text in texts) == 2


async def test_secrets_are_logged_on_demand() -> None:
    await messages("-scrub-logs=false")


async def test_the_specification_for_the_runtime_is_logged_without_secrets(
    tmp_path: Path, busybox_rootfs: Path
) -> None:
    name = f"tracing-{os.getpid()}"
    spec = specification(busybox_rootfs, "/bin/true")
    spec["process"]["env"] = [f"A={SECRET}"]
    spec["annotations"] = {"a": SECRET}
    config = {
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": str(tmp_path / "bundle"),
        "OciSpecification": spec,
    }
    async with rig(("-loglevel", "trace")) as running:
        connection = await running.host.negotiated()
        body = {"ContainerId": name, "otsc": CARRIER, "ContainerConfig": json.dumps(config)}
        created = await connection.rpc(MessageType.CREATE, body)
        assert created.result == 0, created.body
        query = {"ContainerId": name, "Query": '{"PropertyTypes":["Statistics"]}'}
        assert (await connection.rpc(MessageType.GET_PROPERTIES, query)).result == 0
        deleted = await connection.rpc(MessageType.DELETE_CONTAINER_STATE, {"ContainerId": name})
        assert deleted.result == 0, deleted.body
        assert await running.agent.stop() == 0
    (wrote,) = [e for e in running.agent.entries if e.message == "wrote OCI spec to config.json"]
    assert wrote.fields["path"] == str(tmp_path / "bundle" / "config.json")
    assert json.loads(wrote.fields["config"])["process"]["env"] == ["<scrubbed>"]
    assert wrote.fields["traceID"] == TRACE_ID
    assert SECRET.encode() not in b"".join(running.agent.lines)
    spans = {e.fields["name"]: e.fields for e in running.agent.entries if e.message == "Span"}
    setup = spans["hcsv2::setupStandaloneContainerSpec"]
    assert (setup["cid"], setup["traceID"]) == (name, TRACE_ID)
    assert "opengcs::Container::GetStats" in spans


async def test_a_process_of_the_vm(agent: Rig, connection: HostConnection) -> None:
    """The wait is a span of the request that waits, the process one of the request that ran it."""
    parameters = json.dumps({"CommandArgs": ["/bin/true"]})
    body = {"ContainerId": UVM, "otsc": CARRIER, "Settings": {"ProcessParameters": parameters}}
    started = await connection.rpc(MessageType.EXECUTE_PROCESS, body)
    pid = started.body["ProcessId"]
    wait = {"ContainerId": UVM, "ProcessId": pid, "TimeoutInMs": 0xFFFF_FFFF}
    assert (await connection.rpc(MessageType.WAIT_FOR_PROCESS, wait)).result == HResult.OK

    def of_process(name: str) -> Callable[[LogEntry], bool]:
        return lambda entry: {"name": name, "pid": pid}.items() <= entry.fields.items()

    await agent.agent.logged(of_process("opengcs::externalProcess::Wait"))
    background = await agent.agent.logged(of_process("newProcess::waitBackground"))
    assert background.fields["traceID"] == TRACE_ID
