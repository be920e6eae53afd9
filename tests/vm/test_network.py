"""Networks of pods and containers: adapters plugged into a running VM, and real connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from gcs.protocol.errors import RemoteError
from gcs.protocol.settings import ADD, MappedVirtualDisk, Route
from tests.support.published import is_free, published
from uvm.boot import BootOptions, build_machine
from uvm.errors import UvmError
from uvm.network.adapter import Adapter, user_adapter
from uvm.network.options import choose_adapters, parse_network
from uvm.pod import Pod
from uvm.spec import ContainerOptions, ProcessOptions
from uvm.utility_vm import UtilityVm
from uvm.vm.disks import layer_image
from uvm.vm.nic import PublishedPort, TapNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from uvm.network.namespace import NetworkNamespace

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

LAYER = "/run/mounts/scsi/m0"
PORTS = 5
#: Says the pod's host name to whoever asks.
WEB_SERVER = (
    *("/bin/sh", "-c"),
    "mkdir /www && hostname >/www/hostname && exec httpd -f -p 80 -h /www",
)


class Lab:
    """A VM, and pods to make in it."""

    def __init__(self, utility: UtilityVm) -> None:
        self.utility = utility

    def namespace(self, namespace_id: str | None = None) -> NetworkNamespace:
        return self.utility.network_namespace(namespace_id)

    @contextlib.asynccontextmanager
    async def pod(
        self,
        *adapters: Adapter,
        hostname: str = "pod",
        namespace: NetworkNamespace | None = None,
    ) -> AsyncIterator[Pod]:
        """A running pod that serves its host name; removed at the end."""
        network = namespace or self.namespace()
        pod = Pod(self.utility.guest, [LAYER], network=network)
        await pod.start(ProcessOptions(WEB_SERVER), hostname, adapters)
        try:
            yield pod
        finally:
            await pod.remove()

    async def in_vm(self, script: str) -> str:
        """What a script in the VM itself says."""
        process = await self.utility.guest.execute_in_vm(["/bin/sh", "-c", script])
        result = await process.communicate()
        assert result.exit_code == 0, result.stderr.decode()
        return result.stdout.decode()

    async def devices(self) -> set[str]:
        """Adapters and networks that QEMU has."""
        monitor = self.utility.vm._monitor
        found = await monitor.execute("qom-list", {"path": "/machine/peripheral"})
        plugged = {entry["name"] for entry in found if entry["name"].startswith("dev-net")}
        text = await monitor.execute("human-monitor-command", {"command-line": "info network"})
        return plugged | {line for line in text.splitlines() if line.strip()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def booted(image: Path) -> AsyncIterator[Lab]:
    options = BootOptions(image_dir=str(image), network_ports=PORTS)
    machine, vsock = await build_machine(options, lambda _: None)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(machine, Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        layer = await utility.attach_disk(
            "test", await layer_image(image / "busybox.tar"), read_only=True
        )
        disk = MappedVirtualDisk(mount_path=LAYER, lun=layer.lun, read_only=True, options=["ro"])
        await utility.guest.client.modify_settings(ADD, "MappedVirtualDisk", disk)
        yield Lab(utility)


@pytest_asyncio.fixture(loop_scope="module")
async def lab(booted: Lab) -> AsyncIterator[Lab]:
    """The VM; what a test plugs in has to be gone at its end, on both sides."""
    interfaces = await booted.in_vm("ls /sys/class/net")
    devices = await booted.devices()
    yield booted
    assert await booted.devices() == devices
    assert await booted.in_vm("ls /sys/class/net") == interfaces


def with_ports(adapter: Adapter, *ports: PublishedPort) -> Adapter:
    return msgspec.structs.replace(
        adapter, network=msgspec.structs.replace(adapter.network, ports=ports)
    )


def user_networks(count: int) -> list[Adapter]:
    """Adapters of one namespace, as the command line makes them."""
    return choose_adapters([parse_network("user") for _ in range(count)], [])


async def ask(port: PublishedPort) -> str:
    """Fetch the name of a pod by a published port of the host, as soon as its server is there."""
    async with asyncio.timeout(60):
        while True:
            answer = b""
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection(port.host_address, port.host_port)
                with contextlib.closing(writer):
                    writer.write(b"GET /hostname HTTP/1.0\r\n\r\n")
                    answer = await reader.read()
            if answer:
                break
            await asyncio.sleep(0.05)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head, head
    return body.decode()


@contextlib.asynccontextmanager
async def greeter(host: str) -> AsyncIterator[int]:
    """A server of the host that greets whoever says a name; its port."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(b"hello " + await reader.readline())
            await writer.drain()

    server = await asyncio.start_server(greet, host)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def shell(pod: Pod, script: str) -> str:
    """What a script says that runs in a pod."""
    options = ProcessOptions(("/bin/sh", "-c", script))
    result = await (await pod.sandbox.execute(options)).communicate()
    assert result.exit_code == 0, (result.stdout, result.stderr)
    return result.stdout.decode()


async def greeted(pod: Pod, *servers: tuple[str, int]) -> list[str]:
    """Have a pod talk to servers of the host, each by a gateway and a port."""
    script = ";".join(f"hostname | nc -w 20 {gateway} {port}" for gateway, port in servers)
    return (await shell(pod, script)).splitlines()


# --- adapters alone -------------------------------------------------------------------------


async def test_adapters_are_plugged_and_pulled(lab: Lab) -> None:
    plugs = lab.utility.plugs
    port = published()
    nics = [await plugs.plug(with_ports(user_adapter(), port))]
    assert not is_free(port)
    with pytest.raises(UvmError, match="another program uses it already"):
        await plugs.plug(with_ports(user_adapter(), port))
    with pytest.raises(UvmError, match=f"hardware address {nics[0].mac} already"):
        await plugs.plug(msgspec.structs.replace(user_adapter(), mac=nics[0].mac))
    nics += [await plugs.plug(user_adapter()) for _ in range(PORTS - 1)]
    for nic in nics:
        await lab.in_vm(f"until grep -q {nic.mac} /sys/class/net/*/address; do sleep 0.02; done")
    with pytest.raises(UvmError, match=f"the VM was booted with {PORTS}"):
        await plugs.plug(user_adapter())
    # QEMU refuses what the host has no objection to: nothing is left of it.
    await plugs.unplug(nics.pop())
    before = await lab.devices()
    broken = msgspec.structs.replace(user_adapter(), mac="no address")
    with pytest.raises(UvmError, match="QEMU refused device_add"):
        await plugs.plug(broken)
    assert await lab.devices() == before
    # Pulled behind our back, and once more by the book.
    await lab.utility.vm.remove_nic(nics[0])
    assert is_free(port)
    for nic in nics:
        await plugs.unplug(nic)


async def test_a_tap_device_that_somebody_has(lab: Lab, tap: str) -> None:
    plugs = lab.utility.plugs
    nic = await plugs.plug(Adapter(TapNetwork(tap)))
    with pytest.raises(UvmError, match=f"{tap}.*busy"):
        await plugs.plug(Adapter(TapNetwork(tap)))
    await plugs.unplug(nic)


@pytest.fixture
def tap() -> Iterator[str]:
    """A tap device of this machine, with an address of its own."""
    name = f"uvmt{os.getpid():x}"[:15]
    for command in (
        ["tuntap", "add", name, "mode", "tap"],
        ["address", "add", "198.18.77.1/30", "dev", name],
        ["link", "set", name, "up"],
    ):
        subprocess.run(["ip", *command], check=True)
    yield name
    subprocess.run(["ip", "tuntap", "del", name, "mode", "tap"], check=True)


# --- pods -----------------------------------------------------------------------------------


async def test_two_pods_with_two_adapters_each(lab: Lab) -> None:
    """They have the same addresses, and know nothing of each other."""
    ports = [[published(), published()] for _ in range(2)]
    chosen = [
        [with_ports(adapter, port) for adapter, port in zip(user_networks(2), pair, strict=True)]
        for pair in ports
    ]
    async with (
        lab.pod(*chosen[0], hostname="first") as first,
        lab.pod(*chosen[1], hostname="second") as second,
        greeter("127.0.0.1") as port4,
        greeter("::1") as port6,
    ):
        for pod, name, pair in ((first, "first", ports[0]), (second, "second", ports[1])):
            for port in pair:
                assert await ask(port) == f"{name}\n"
            servers = (
                *(("10.0.2.2", port4), ("10.0.3.2", port4)),
                *(("fec0:0:0:2::2", port6), ("fec0:0:0:3::2", port6)),
            )
            assert await greeted(pod, *servers) == [f"hello {name}"] * 4
            interfaces = await shell(pod, "cat /sys/class/net/*/address")
            assert len(interfaces.split()) == 3
        # The VM itself has none of them.
        assert (await lab.in_vm("ls /sys/class/net")).split() == ["lo"]
        await shell(first, "echo a > /www/of-the-first")
        workload = await second.create(
            ContainerOptions(
                ProcessOptions(("/bin/sh", "-c", "wget -q -O - http://10.0.3.15/hostname"))
            )
        )
        assert (await (await workload.start()).communicate()).stdout == b"second\n"
        # What answers at that address is the pod itself.
        missing = "wget -q -O - http://10.0.2.15/of-the-first 2>&1 || exit 0"
        assert "404" in await shell(second, missing)
    assert all(is_free(port) for pair in ports for port in pair)


async def test_an_adapter_for_a_pod_that_runs(lab: Lab) -> None:
    first, second = user_networks(2)
    port = published()
    async with lab.pod(first) as pod, greeter("127.0.0.1") as greeting:
        added = await pod.add_adapter(with_ports(second, port))
        assert await ask(port) == "pod\n"
        assert await greeted(pod, ("10.0.3.2", greeting)) == ["hello pod"]
        await pod.remove_adapter(added)
        assert is_free(port)
        assert len((await shell(pod, "ls /sys/class/net")).split()) == 2
        # The other one goes on, and the place is free again.
        assert await greeted(pod, ("10.0.2.2", greeting)) == ["hello pod"]
        await pod.add_adapter(with_ports(second, port), added)
        assert await ask(port) == "pod\n"
        with pytest.raises(UvmError, match="has no adapter nosuch"):
            await pod.remove_adapter("nosuch")


async def test_a_pod_that_begins_without_adapters(lab: Lab) -> None:
    port = published()
    async with lab.pod() as pod:
        assert (await shell(pod, "ls /sys/class/net")).split() == ["lo"]
        await pod.add_adapter(with_ports(user_adapter(), port))
        assert await ask(port) == "pod\n"


async def test_addresses_and_names_from_a_server(lab: Lab) -> None:
    adapters = choose_adapters([parse_network("user,dhcp")], [])
    async with lab.pod(*adapters) as pod, greeter("127.0.0.1") as port:
        assert await greeted(pod, ("10.0.2.2", port)) == ["hello pod"]
        assert "inet 10.0.2.15/24" in await shell(pod, "ip address show")


async def test_name_servers_and_domains(lab: Lab) -> None:
    wishes = [
        parse_network("user,search=One.example,search=two.example"),
        parse_network("user,dns=192.0.2.53,search=two.example,search=three.example"),
    ]
    expected = (
        "search one.example two.example three.example\nnameserver 10.0.2.3\nnameserver 192.0.2.53\n"
    )
    async with lab.pod(*choose_adapters(wishes, []), hostname="a.b") as pod:
        workload = await pod.create(
            ContainerOptions(ProcessOptions(("/bin/cat", "/etc/resolv.conf", "/etc/hostname")))
        )
        completed = await (await workload.start()).communicate()
        assert completed.stdout.decode() == f"{expected}a.b\n"


async def test_a_network_namespace_is_used_again(lab: Lab) -> None:
    namespace_id, adapter_id = str(uuid.uuid4()), str(uuid.uuid4())
    for name in ("once", "twice"):
        port = published()
        namespace = lab.namespace(namespace_id)
        await namespace.add(with_ports(user_adapter(), port), adapter_id)
        with pytest.raises(RemoteError, match=adapter_id):
            await namespace.add(user_adapter(subnet=3), adapter_id)
        async with lab.pod(hostname=name, namespace=namespace):
            assert await ask(port) == f"{name}\n"


async def test_what_the_agent_refuses_leaves_nothing(lab: Lab) -> None:
    port = published()
    adapter = with_ports(user_adapter(), port)
    bad = msgspec.structs.replace(adapter, routes=(Route(destination_prefix="nowhere"),))
    with pytest.raises(RemoteError, match="nowhere"):
        async with lab.pod(bad):
            pass
    assert is_free(port)
    # The sandbox fails when it has its adapter already.
    pod = Pod(lab.utility.guest, [LAYER], network=lab.namespace())
    with pytest.raises(RemoteError, match="nosuchprogram"):
        await pod.start(ProcessOptions(("nosuchprogram",)), adapters=[adapter])
    assert is_free(port)


async def test_a_network_that_lets_nothing_out(lab: Lab) -> None:
    port = published()
    (adapter,) = choose_adapters([parse_network("user,restrict")], [port])
    async with lab.pod(adapter) as pod, greeter("127.0.0.1") as greeting:
        assert await ask(port) == "pod\n"
        refused = f"hostname | nc -w 2 10.0.2.2 {greeting} || echo refused"
        assert await shell(pod, refused) == "refused\n"


async def test_a_pod_at_a_tap_device(lab: Lab, tap: str) -> None:
    adapter = Adapter(TapNetwork(tap), addresses=("198.18.77.2/30",), gateways=("198.18.77.1",))
    async with lab.pod(adapter) as pod, greeter("198.18.77.1") as port:
        assert await greeted(pod, ("198.18.77.1", port)) == ["hello pod"]
        assert await ask(PublishedPort(80, 80, host_address="198.18.77.2")) == "pod\n"
