"""What the host library sends is what a real host sends: the recorded exchanges, repeated."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.frame import MessageType, type_name
from tests.support.fakeguest import Call, FakeGuest
from uvm.container import Container, LayerPaths, ScsiAddress
from uvm.guest import Guest
from uvm.listen import UnixHostPorts
from uvm.network.adapter import Adapter
from uvm.network.namespace import NetworkNamespace
from uvm.network.plugs import NetworkPlugs
from uvm.pod import SKIP_NETWORK, Pod
from uvm.spec import ContainerOptions, ProcessOptions
from uvm.stdio import FIRST_STDIO_PORT
from uvm.vm.machine import Machine
from uvm.vm.nic import UserNetwork
from uvm.vm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GOLDEN = Path(os.environ.get("GCS_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
PID = 1633


class Stage:
    """A guest for the host library, with a fake at its other end."""

    def __init__(self, directory: Path) -> None:
        self.guest = Guest(UnixHostPorts(directory / "vsock"))
        self.fake = FakeGuest({MessageType.EXECUTE_PROCESS: self._execute})
        self.directory = directory
        self.exit_code = 0
        self.fake.handlers[MessageType.WAIT_FOR_PROCESS] = self._wait

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        await self.guest.client.open(ours)
        await self.fake.serve(*await asyncio.open_connection(sock=theirs))

    async def close(self) -> None:
        await self.guest.close()
        await self.fake.close()

    async def _execute(self, call: Call) -> dict[str, Any]:
        ports = call.body["Settings"]["VsockStdioRelaySettings"]
        for port in ports.values():
            _, writer = await asyncio.open_unix_connection(f"{self.directory}/vsock_{port}")
            writer.close()
        return {"ProcessId": PID}

    async def _wait(self, call: Call) -> dict[str, Any]:
        if len(call.body["ContainerId"].strip("0-")):
            asyncio.get_running_loop().call_soon(self.fake.notify_exit, call.body["ContainerId"])
        return {"ExitCode": self.exit_code}

    def sent(self) -> list[tuple[str, Any]]:
        return [(type_name(call.type), unpack(call.body)) for call in self.fake.calls]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.open()
    yield stage
    await stage.close()


def requests(name: str) -> list[tuple[str, Any]]:
    """The host's messages of a recording, in their order."""
    lines = (GOLDEN / name).read_text().splitlines()
    messages = [json.loads(line) for line in lines]
    return [
        (message["type"], unpack(message["body"]))
        for message in messages
        if message["direction"] == "host-to-guest"
    ]


def unpack(value: Any) -> Any:
    """Decode the JSON in strings, and number the stdio ports from the first one."""
    if isinstance(value, dict):
        unpacked = {}
        for key, entry in value.items():
            if key in ("ContainerConfig", "ProcessParameters"):
                unpacked[key] = unpack(json.loads(entry))
            elif key == "VsockStdioRelaySettings":
                first = min(entry.values(), default=0)
                unpacked[key] = {name: port - first for name, port in entry.items()}
            elif key != "ociVersion":
                unpacked[key] = unpack(entry)
        return unpacked
    if isinstance(value, list):
        return [unpack(entry) for entry in value]
    return value


async def test_a_standalone_container_from_its_disks_to_its_deletion(stage: Stage) -> None:
    recorded = requests("standalone-container.jsonl")
    create = next(body for kind, body in recorded if kind == "Request/Create")
    specification = create["ContainerConfig"]["OciSpecification"]
    paths = LayerPaths()
    while paths.take() != "/run/mounts/scsi/m10":
        pass
    stage.exit_code = 17
    container = Container(stage.guest, create["ContainerId"])
    await container.mount([ScsiAddress(0, 1)], ScsiAddress(0, 3), paths)
    await container.create(
        ContainerOptions(
            process=ProcessOptions(
                arguments=tuple(specification["process"]["args"]), environment=("EXAMPLE=1",)
            ),
            hostname="alone",
            memory_limit=268435456,
            cgroup_namespace=False,
        )
    )
    process = await container.start(stdin=False)
    assert (process.pid, await process.wait()) == (PID, 17)
    assert (await container.wait_exit()).type == "UnexpectedExit"
    await container.remove()
    assert stage.sent() == recorded


async def test_processes_of_the_vm(stage: Stage) -> None:
    recorded = requests("uvm-exec-stdio.jsonl")
    for index, stdin in ((0, False), (2, True)):
        parameters = recorded[index][1]["Settings"]["ProcessParameters"]
        process = await stage.guest.execute_in_vm(parameters["CommandArgs"], stdin=stdin)
        recorded[index + 1][1]["ProcessId"] = PID
        await process.wait()
        process.close()
    assert stage.sent() == recorded


async def test_the_first_port_of_a_vm_is_that_of_a_real_host(stage: Stage) -> None:
    await (await stage.guest.execute_in_vm(["true"])).communicate()
    ports = stage.fake.calls[0].body["Settings"]["VsockStdioRelaySettings"]
    assert ports == {"StdOut": FIRST_STDIO_PORT, "StdErr": FIRST_STDIO_PORT + 1}


async def test_negotiation(stage: Stage) -> None:
    await stage.guest.client.negotiate()
    assert stage.sent() == requests("connect-negotiate.jsonl")[:1]


async def test_execs_signals_and_resizes_of_a_container(stage: Stage) -> None:
    recorded = requests("pod-sandbox-workload-exec.jsonl")
    execs = [
        body
        for kind, body in recorded
        if kind == "Request/ExecuteProcess"
        and "OciProcess" in body["Settings"]["ProcessParameters"]
    ]
    plain = execs[0]
    container = Container(stage.guest, plain["ContainerId"])
    process = plain["Settings"]["ProcessParameters"]["OciProcess"]
    running = await container.execute(
        ProcessOptions(arguments=tuple(process["args"]), environment=("EXECENV=x",))
    )
    running.close()
    sent = stage.sent()[0][1]
    ours = sent["Settings"]["ProcessParameters"]["OciProcess"]
    # Limits and privileges are the container's own business; the rest is the same.
    assert {key: ours[key] for key in process} == process
    del sent["Settings"]["ProcessParameters"]["OciProcess"]
    del plain["Settings"]["ProcessParameters"]["OciProcess"]
    assert sent == plain
    for kind, body in recorded:
        if kind == "Request/SignalProcess":
            await stage.guest.client.signal_process(
                body["ContainerId"], body["ProcessId"], body["Options"]["Signal"]
            )
            assert stage.sent()[-1] == (kind, body)
        elif kind == "Request/ResizeConsole":
            await stage.guest.client.resize_console(
                body["ContainerId"], body["ProcessId"], body["Height"], body["Width"]
            )
            assert stage.sent()[-1] == (kind, body)


async def test_the_network_of_a_pod(stage: Stage) -> None:
    """Before the sandbox is made, and when it has ended; its namespace in every specification."""
    recorded = requests("pod-sandbox-workload-exec.jsonl")
    add, remove = (
        (kind, body)
        for kind, body in recorded
        if kind == "Request/ModifySettings" and body["Request"]["ResourceType"] == "Network"
    )
    given = add[1]["Request"]["Settings"]
    adapter = Adapter(
        UserNetwork(),
        addresses=("10.11.0.2/24",),
        gateways=("10.11.0.1",),
        dns_servers=("10.1.1.2", "10.1.1.3"),
        dns_search=("corp.example.com", "example.com"),
        mac=given["MacAddress"].lower().replace("-", ":"),
    )
    plugs = NetworkPlugs(VirtualMachine(Machine(kernel=stage.directory, initrd=None), Path()))
    plugs.build_in([adapter])
    network = NetworkNamespace(plugs, stage.guest, given["NamespaceID"])
    pod = Pod(stage.guest, ["/layer"], network=network)
    await pod.add_adapter(adapter, given["ID"])
    await pod.start()
    await pod.create(ContainerOptions(ProcessOptions(("true",))))
    await pod.remove()
    sent = stage.sent()
    kinds = [
        body["Request"]["RequestType"] + body["Request"]["ResourceType"]
        if kind == "Request/ModifySettings"
        else kind.removeprefix("Request/")
        for kind, body in sent
    ]
    assert sent[0] == add
    at = kinds.index("RemoveNetwork")
    assert sent[at] == remove
    # The workload's is the first one.
    assert kinds.index("DeleteContainerState") < kinds.index("SignalProcess") < at
    assert kinds[at + 1 :] == ["RemoveCombinedLayers", "DeleteContainerState"]
    creates = [
        body["ContainerConfig"]["OciSpecification"]
        for kind, body in recorded + sent
        if kind == "Request/Create"
    ]
    assert len(creates) == 5
    for specification in creates:
        assert specification["windows"]["network"] == {"networkNamespace": given["NamespaceID"]}
        assert SKIP_NETWORK not in specification["annotations"]
