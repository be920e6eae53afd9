"""Network adapters in the life of pods and containers (spec 2.6, 3.7, chapter 6)."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from gcs.network import interface
from gcs.protocol import trace
from gcs.protocol.errors import GcsError, InvalidArgumentError, NotFoundError
from gcs.protocol.message import UVM_ID
from gcs.protocol.settings import IPConfig, NetworkAdapter
from gcs.runtime.namespaces import Namespaces
from gcs.runtime.network import Network, NetworkDriver
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.pods import LCOW, TYPE
from tests.support.wires import NetworkNamespace, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gcs.network.workers import Workers
    from gcs.protocol.trace import Span

SIGKILL = 9
CAPABILITIES = {kind: ["CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}
HOST_NETWORK = f"{LCOW}.hostnetwork"


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    marks = f"gcstest{os.getpid()}x", os.fspath(tmp_path)
    before = footprint(*marks)
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(*marks) == before


@pytest.fixture
def far() -> Iterator[NetworkNamespace]:
    """Where the other ends of all wires are."""
    with NetworkNamespace() as namespace:
        yield namespace


class Adapter:
    """An adapter as the host sees it, at the near end of a wire; the network is 10.<number>."""

    def __init__(
        self, machine: Machine, far: NetworkNamespace, namespace: str, number: int
    ) -> None:
        self.machine = machine
        self.wire = Wire(None, far)
        self.address = f"10.77.{number}.2"
        far.ip("address", "add", f"10.77.{number}.1/24", "dev", self.wire.far_name)
        far.ip("address", "add", f"fd77:{number}::1/64", "dev", self.wire.far_name, "nodad")
        self.settings: dict[str, Any] = {
            "NamespaceID": namespace.upper(),
            "ID": str(uuid.uuid4()),
            "MacAddress": self.wire.mac.upper().replace(":", "-"),
            "IPConfigs": [
                {"IPAddress": self.address, "PrefixLength": 24},
                {"IPAddress": f"fd77:{number}::2", "PrefixLength": 64},
            ],
            "Routes": [{"NextHop": f"10.77.{number}.1", "DestinationPrefix": "0.0.0.0/0"}],
            "DNSSuffix": f"net{number}.test,Example.test",
            "DNSServerList": f"10.77.{number}.53",
        }

    async def add(self) -> None:
        await self.machine.modify(UVM_ID, "Network", self.settings, "Add")

    async def remove(self) -> None:
        await self.machine.modify(UVM_ID, "Network", self.settings, "Remove")


async def create_sandbox(machine: Machine, namespace: str, **annotations: str) -> str:
    spec = specification(machine, namespace)
    spec["annotations"] = {TYPE: "sandbox", **annotations}
    return await machine.create(spec=spec)


def specification(machine: Machine, namespace: str) -> dict[str, Any]:
    """Of a container that waits, and may ping."""
    spec = machine.specification("sleep", "1000", capabilities=CAPABILITIES)
    spec["windows"] = {"network": {"networkNamespace": namespace}}
    return spec


async def output_of(machine: Machine, container: str, script: str) -> str:
    """Run a script in a container; return what it says."""
    streams = await machine.streams()
    command = ("sh", "-c", f"exec 2>&1; {script}")
    pid = await machine.exec(container, *command, streams=streams, capabilities=CAPABILITIES)
    output = await streams.stdout.read_all()
    await machine.wait(container, pid)
    return output.decode()


def new_namespace() -> str:
    return str(uuid.uuid4())


async def test_a_pod_with_two_adapters(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    first, second = (Adapter(machine, far, namespace, number) for number in (1, 2))
    await first.add()
    await second.add()
    pod = await create_sandbox(machine, namespace)
    await machine.start(pod)
    pings = "ping -c1 -W5 10.77.1.1 && ping -c1 -W5 10.77.2.1 && ping -6 -c1 -W5 fd77:2::1"
    said = await output_of(machine, pod, f"{pings}; cat /proc/net/dev; ping -c1 127.0.0.1")
    assert said.count("1 packets received") == 4, said
    assert first.wire.name in said
    assert second.wire.name in said
    files = machine.bundle(pod)
    assert (files / "resolv.conf").read_text() == (
        "search net1.test example.test net2.test\nnameserver 10.77.1.53\nnameserver 10.77.2.53\n"
    )
    await machine.host.delete_container_state(pod)
    await first.remove()
    await second.remove()


async def test_the_sandbox_shares_its_adapters_with_workloads(
    machine: Machine, far: NetworkNamespace
) -> None:
    namespace = new_namespace()
    adapter = Adapter(machine, far, namespace, 1)
    await adapter.add()
    pod = await create_sandbox(machine, namespace)
    pid = await machine.start(pod)
    workload = await machine.create_workload(
        pod, "sleep", "1000", sandbox_pid=pid, capabilities=CAPABILITIES
    )
    await machine.start(workload)
    said = await output_of(machine, workload, "ping -c1 -W5 10.77.1.1; cat /etc/resolv.conf")
    assert "1 packets received" in said
    assert "nameserver 10.77.1.53" in said


async def test_hot_add_and_removal_while_it_runs(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    first, second = (Adapter(machine, far, namespace, number) for number in (1, 2))
    await first.add()
    pod = await create_sandbox(machine, namespace)
    await machine.start(pod)
    await second.add()
    assert not second.wire.is_near()
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.2.1")
    resolv_conf = machine.bundle(pod) / "resolv.conf"
    assert "nameserver 10.77.2.53" in resolv_conf.read_text()
    await second.remove()
    assert second.wire.is_near()
    assert resolv_conf.read_text() == "search net1.test example.test\nnameserver 10.77.1.53\n"
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.1.1")
    await second.add()
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.2.1")


async def test_pods_do_not_see_each_other(machine: Machine, far: NetworkNamespace) -> None:
    pods = []
    for number in (1, 2):
        adapter = Adapter(machine, far, namespace := new_namespace(), number)
        await adapter.add()
        pods.append(await create_sandbox(machine, namespace))
        await machine.start(pods[-1])
    assert "1 packets received" in await output_of(machine, pods[0], "ping -c1 -W5 10.77.1.1")
    # Only a way through the far namespace would lead to the other one, and it forwards nothing.
    assert "0 packets received" in await output_of(machine, pods[0], "ping -c1 -W1 10.77.2.2")
    said = await output_of(machine, pods[0], "ip -4 address")
    assert "10.77.1.2" in said
    assert "10.77.2.2" not in said


async def test_the_same_namespace_again(machine: Machine, far: NetworkNamespace) -> None:
    """Its entry goes with its last adapter, and its pod (oddity 32 of the reference)."""
    namespace = new_namespace()
    for number in (1, 2):
        adapter = Adapter(machine, far, namespace, number)
        await adapter.add()
        pod = await create_sandbox(machine, namespace)
        await machine.host.delete_container_state(pod)
        await adapter.remove()
        with pytest.raises(NotFoundError, match=f"network namespace '{namespace}' of pod"):
            await create_sandbox(machine, namespace)


async def test_a_namespace_has_one_container(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    adapter = Adapter(machine, far, namespace, 1)
    await adapter.add()
    pod = await create_sandbox(machine, namespace)
    with pytest.raises(GcsError, match=f"{namespace} is in use by container {pod}"):
        await create_sandbox(machine, namespace)
    assert not adapter.wire.is_near()
    await machine.start(pod)
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.1.1")


async def test_a_standalone_container(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    await Adapter(machine, far, namespace, 1).add()
    container = await machine.create(spec=specification(machine, namespace))
    await machine.start(container)
    said = await output_of(machine, container, "ping -c1 -W5 10.77.1.1; cat /etc/resolv.conf")
    assert "1 packets received" in said
    assert "nameserver 10.77.1.53" in said


async def test_the_network_of_the_vm(machine: Machine, far: NetworkNamespace) -> None:
    """With the host network, adapters are configured where they are, and cleared at the end."""
    namespace = new_namespace()
    adapter = Adapter(machine, far, namespace, 1)
    del adapter.settings["Routes"]  # this machine has a default route of its own
    await adapter.add()
    pod = await create_sandbox(machine, namespace, **{HOST_NETWORK: "true"})
    await machine.start(pod)
    assert adapter.wire.is_near()
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.1.1")
    await machine.host.delete_container_state(pod)
    pod = await create_sandbox(machine, namespace, **{HOST_NETWORK: "true"})
    await machine.start(pod)
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.1.1")


async def test_a_pod_whose_network_fails_leaves_nothing(
    machine: Machine, far: NetworkNamespace
) -> None:
    namespace = new_namespace()
    good, bad = (Adapter(machine, far, namespace, number) for number in (1, 2))
    # Its own address can't be a gateway.
    bad.settings["Routes"] = [{"NextHop": "fd77:2::2", "DestinationPrefix": "::/0"}]
    await good.add()
    await bad.add()
    with pytest.raises(GcsError, match=f"network adapter {bad.settings['ID']}: interface"):
        await create_sandbox(machine, namespace)
    assert good.wire.is_near()
    assert bad.wire.is_near()
    assert machine.notifications.empty()
    await bad.remove()
    pod = await create_sandbox(machine, namespace)
    await machine.start(pod)
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.1.1")


async def test_a_hot_add_that_fails(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    good, bad = (Adapter(machine, far, namespace, number) for number in (1, 2))
    bad.settings["Routes"] = [{"NextHop": "fd77:2::2", "DestinationPrefix": "::/0"}]
    await good.add()
    pod = await create_sandbox(machine, namespace)
    await machine.start(pod)
    with pytest.raises(GcsError, match="Gateway can not be a local address"):
        await bad.add()
    assert bad.wire.is_near()
    bad.settings["DNSSuffix"] = ",".join(f"d{number}.test" for number in range(7))
    del bad.settings["Routes"]
    with pytest.raises(GcsError, match="search"):
        await bad.add()
    assert bad.wire.is_near()
    assert "net2" not in (machine.bundle(pod) / "resolv.conf").read_text()
    bad.settings["DNSSuffix"] = ""
    await bad.add()
    assert "1 packets received" in await output_of(machine, pod, "ping -c1 -W5 10.77.2.1")


async def test_a_pod_that_died(machine: Machine, far: NetworkNamespace) -> None:
    namespace = new_namespace()
    first, second = (Adapter(machine, far, namespace, number) for number in (1, 2))
    await first.add()
    pod = await create_sandbox(machine, namespace)
    pid = await machine.start(pod)
    await machine.host.signal_process(pod, pid, SIGKILL)
    await machine.wait(pod, pid)
    with pytest.raises(GcsError, match=f"container {pod} has no network namespace"):
        await second.add()
    assert second.wire.is_near()
    await first.remove()


async def test_operators_find_it_in_the_log(machine: Machine, far: NetworkNamespace) -> None:
    """Spans of the names that the reference has (spec appendix C)."""
    ended: list[Span] = []
    namespace = new_namespace()
    adapter = Adapter(machine, far, namespace, 1)
    before = trace._export
    trace.set_exporter(ended.append)
    try:
        await adapter.add()
        await create_sandbox(machine, namespace)
        await adapter.remove()
    finally:
        trace.set_exporter(before)
    names = [span.name for span in ended]
    wanted = [
        "network::InstanceIDToName",
        "namespace::AddAdapter",
        "nicInNamespace::assignToPid",
        "namespace::AssignContainerPid",
        "namespace::RemoveAdapter",
    ]
    assert [name for name in names if name in wanted[1:]] == wanted[1:]
    assert wanted[0] in names
    added = next(span for span in ended if span.name == "namespace::AddAdapter")
    assert added.attributes == {"namespace": namespace, "adapter": adapter.settings["ID"]}


async def test_an_adapter_twice(machine: Machine, far: NetworkNamespace) -> None:
    adapter = Adapter(machine, far, new_namespace(), 1)
    await adapter.add()
    adapter.settings["ID"] = adapter.settings["ID"].upper()
    with pytest.raises(GcsError, match=r"was added to network namespace .* already"):
        await adapter.add()


async def test_malformed_settings_are_refused_at_once(
    machine: Machine, far: NetworkNamespace
) -> None:
    adapter = Adapter(machine, far, namespace := new_namespace(), 1)
    for wrong in (
        {"IPConfigs": [{"IPAddress": "10.77.1.x", "PrefixLength": 24}]},
        {"Routes": [{"NextHop": "10.77.1.1", "DestinationPrefix": "somewhere"}]},
        {"MacAddress": "12-34"},
        {"MacAddress": ""},
        {"ID": "/etc"},
    ):
        settings = {**adapter.settings, **wrong}
        with pytest.raises(InvalidArgumentError):
            await machine.modify(UVM_ID, "Network", settings, "Add")
    with pytest.raises(NotFoundError):
        await create_sandbox(machine, namespace)


async def test_removing_what_is_not_known(
    machine: Machine, far: NetworkNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Adapter(machine, far, new_namespace(), 1)
    with caplog.at_level(logging.WARNING):
        await adapter.remove()
        await adapter.add()
        other = {**adapter.settings, "ID": str(uuid.uuid4())}
        await machine.modify(UVM_ID, "Network", other, "Remove")
    assert "is not known" in caplog.text
    assert f"has no adapter {other['ID']}" in caplog.text


async def test_an_adapter_that_never_comes() -> None:
    def make_workers() -> Workers:
        raise GcsError("no worker is wanted")

    async def find_pci_device(_: str) -> str:
        return "/nowhere"

    namespaces = Namespaces()
    network = Network(make_workers, find_pci_device, limit=0.05)
    settings = NetworkAdapter(
        namespace_id="ns",
        id="12",
        mac_address="02-00-00-00-ff-ff",
        ip_configs=[IPConfig(ip_address="10.0.0.1")],
    )
    with pytest.raises(
        GcsError, match=r"12 \(MAC address 02:00:00:00:ff:ff\) did not appear within"
    ):
        await network.find_interface(settings)
    settings.vpci_assigned = True
    with pytest.raises(GcsError, match=r"12 \(/nowhere/net\) did not appear within 0\.05 s"):
        await network.find_interface(settings)
    with pytest.raises(GcsError, match="no worker is wanted"):
        await NetworkDriver(namespaces, network).add(settings)
    assert namespaces.find("ns") is None


async def test_an_adapter_that_comes_late(
    machine: Machine, far: NetworkNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Adapter(machine, far, new_namespace(), 1)
    far.ip("link", "del", adapter.wire.far_name)
    looked = threading.Event()
    find = interface.find_by_mac

    def find_by_mac(mac: str, root: str) -> str | None:
        found = find(mac, root)
        looked.set()
        return found

    monkeypatch.setattr(interface, "find_by_mac", find_by_mac)
    adding = asyncio.create_task(adapter.add())
    assert await asyncio.to_thread(looked.wait, 20)
    assert not adding.done()
    await asyncio.to_thread(Wire, None, far, mac=adapter.wire.mac)
    await asyncio.wait_for(adding, 20)


async def test_a_resolv_conf_of_whatever_form(
    machine: Machine, far: NetworkNamespace, tmp_path: Path
) -> None:
    """What a base's own script for the DHCP client writes does no harm."""
    script = tmp_path / "script"
    script.write_text(
        '#!/bin/sh\nprintf "\\n# by hand\\nnameserver 10.77.1.54\\n" >"$GCS_RESOLV_CONF"\n'
    )
    script.chmod(0o755)
    client = tmp_path / "bin/udhcpc"
    client.parent.mkdir()
    client.write_text('#!/bin/sh\nwhile [ "$1" != -s ]; do shift; done; exec "$2" bound\n')
    client.chmod(0o755)
    namespace = new_namespace()
    adapter = Adapter(machine, far, namespace, 1)
    adapter.settings |= {"IPConfigs": [], "Routes": [], "DNSServerList": "", "DNSSuffix": ""}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
        network = machine.host._surroundings._network
        patch.setattr(network, "_dhcp_script", os.fspath(script))
        await adapter.add()
        pod = await create_sandbox(machine, namespace)
    assert (machine.bundle(pod) / "resolv.conf").read_text() == "nameserver 10.77.1.54\n"
