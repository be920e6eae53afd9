"""The network worker, in network namespaces of its own: what it does to links (spec 6.3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gcs.network.job import Connect, Disconnect
from gcs.network.settings import plan_adapter
from gcs.network.workers import Workers
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import IPConfig, NetworkAdapter, Route
from tests.support.wires import NetworkNamespace, Wire, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gcs.network.job import Adapter, Outcome

LIMIT = 40.0
SCRIPT = Path(__file__).parents[2] / "scripts/image/files/udhcpc_config.script"


class Process:
    """A worker, with what the agent wants to know of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.popen = process

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    async def wait(self) -> int:
        return await asyncio.to_thread(self.popen.wait)


class Site:
    """The VM, the container, and what is at the other end of the VM's adapters."""

    def __init__(self, vm: NetworkNamespace, pod: NetworkNamespace, far: NetworkNamespace) -> None:
        self.vm, self.pod, self.far = vm, pod, far
        self.processes: list[Process] = []
        self.workers = Workers(self.spawn)

    def spawn(self, arguments: Sequence[str], **streams: Any) -> Process:
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/bin:/sbin"}
        process = subprocess.Popen([*self.vm.inside, *arguments], env=environment, **streams)
        self.processes.append(Process(process))
        return self.processes[-1]

    def wire(self, name: str = "eth0") -> Wire:
        return Wire(self.vm, self.far, name)

    async def connect(
        self, *adapters: Adapter, namespace: NetworkNamespace | None = None, limit: float = LIMIT,
        dhcp_seconds: float = 20,
    ) -> Outcome:  # fmt: skip
        job = Connect(adapters, os.fspath(SCRIPT), dhcp_seconds)
        return await self._run(job, namespace or self.pod, limit)

    async def disconnect(
        self, *adapters: Adapter, namespace: NetworkNamespace | None = None
    ) -> Outcome:
        return await self._run(Disconnect(adapters), namespace or self.pod, LIMIT)

    async def _run(self, job: Any, namespace: NetworkNamespace, limit: float) -> Outcome:
        descriptor = os.open(namespace.path, os.O_RDONLY)
        try:
            outcome = await self.workers.run(job, descriptor, limit)
        finally:
            os.close(descriptor)
        assert outcome.defect == ""
        return outcome


@pytest.fixture
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        vm, pod, far = (stack.enter_context(NetworkNamespace()) for _ in range(3))
        site = Site(vm, pod, far)
        yield site
        for process in site.processes:
            process.kill()


def adapter(
    wire: Wire,
    *addresses: tuple[str, int],
    routes: Sequence[tuple[str, str, int]] = (),
    table: int = 0,
    **settings: Any,
) -> Adapter:
    wanted = NetworkAdapter(
        id=f"{wire.name}-id",
        ip_configs=[IPConfig(ip_address=ip, prefix_length=bits) for ip, bits in addresses],
        routes=[
            Route(next_hop=gateway, destination_prefix=destination, metric=metric)
            for destination, gateway, metric in routes
        ],
        **settings,
    )
    return plan_adapter(wanted, wire.name, wire.mac, table)


V4 = ("10.5.0.2", 24)
V6 = ("fd05::2", 64)
DEFAULT_4 = ("0.0.0.0/0", "10.5.0.1", 0)
DEFAULT_6 = ("::/0", "fd05::1", 0)


async def test_an_ipv4_adapter(site: Site) -> None:
    outcome = await site.connect(adapter(site.wire(), V4, routes=[DEFAULT_4]))
    assert outcome.error == ""
    assert outcome.connected[0].interface == "eth0"
    assert "10.5.0.2/24" in outcome.connected[0].addresses
    assert "UP" in site.pod.links()["eth0"]["flags"]
    assert site.pod.addresses("eth0") == {"10.5.0.2/24"}
    assert site.pod.routes(4) == {("default", "10.5.0.1", 0)}
    assert site.pod.rules(4) == []
    assert site.vm.links() == {}


async def test_an_ipv6_adapter_is_usable_at_once(site: Site) -> None:
    await site.connect(adapter(site.wire(), V6, routes=[DEFAULT_6]))
    (entry,) = [
        entry
        for entry in site.pod.show("address", "show", "dev", "eth0")[0]["addr_info"]
        if entry["local"] == "fd05::2"
    ]
    assert not entry.get("tentative")
    assert ("default", "fd05::1", 1024) in site.pod.routes(6)


async def test_both_protocols_and_traffic(site: Site) -> None:
    wire = site.wire()
    outcome = await site.connect(adapter(wire, V4, V6, routes=[DEFAULT_4, DEFAULT_6]))
    assert outcome.error == ""
    assert site.pod.addresses("eth0") == {"10.5.0.2/24", "fd05::2/64"}
    site.far.ip("address", "add", "10.5.0.1/24", "dev", wire.far_name)
    run(*site.pod.inside, "busybox", "ping", "-c", "1", "-W", "10", "10.5.0.1")


async def test_the_loopback_is_up(site: Site) -> None:
    assert "UP" not in site.pod.show("link", "show", "dev", "lo")[0]["flags"]
    await site.connect(adapter(site.wire(), V4))
    assert "UP" in site.pod.show("link", "show", "dev", "lo")[0]["flags"]


async def test_a_table_of_its_own(site: Site) -> None:
    """EnableLowMetric: a rule for what leaves from its addresses (spec 6.3)."""
    wire = site.wire()
    await site.connect(adapter(wire, V4, V6, routes=[DEFAULT_4, DEFAULT_6], table=101))
    assert site.pod.rules(4) == [(5, "10.5.0.2", "101")]
    assert site.pod.rules(6) == [(5, "fd05::2", "101")]
    assert site.pod.routes(4, "101") == {("default", "10.5.0.1", 500)}
    assert site.pod.routes(6, "101") == {("default", "fd05::1", 500)}
    assert site.pod.routes(4) == set()


async def test_without_gateway(site: Site) -> None:
    nowhere = [("0.0.0.0/0", "0.0.0.0", 0), ("::/0", "::", 0)]
    await site.connect(adapter(site.wire(), V4, V6, routes=nowhere))
    assert site.pod.addresses("eth0") == {"10.5.0.2/24", "fd05::2/64"}
    assert site.pod.routes(4) == set()
    assert not any(route[0] == "default" for route in site.pod.routes(6))


async def test_gateway_outside_the_subnet(site: Site) -> None:
    routes = [("0.0.0.0/0", "10.9.9.9", 0), ("::/0", "fd99::1", 0)]
    outcome = await site.connect(adapter(site.wire(), V4, V6, routes=routes))
    assert outcome.error == ""
    assert site.pod.addresses("eth0") == {"10.5.0.2/24", "fd05::2/64"}
    assert ("default", "10.9.9.9", 0) in site.pod.routes(4)
    assert ("default", "fd99::1", 1024) in site.pod.routes(6)


async def test_several_routes(site: Site) -> None:
    routes = [DEFAULT_4, ("10.6.0.0/16", "10.5.0.9", 77), ("10.7.0.0/16", "", 0)]
    await site.connect(adapter(site.wire(), V4, routes=routes))
    assert site.pod.routes(4) == {
        ("default", "10.5.0.1", 0),
        ("10.6.0.0/16", "10.5.0.9", 77),
        ("10.7.0.0/16", "", 0),
    }


async def test_encapsulation_takes_of_the_mtu(site: Site) -> None:
    wire = site.wire()
    plan = adapter(wire, V4, encap_overhead=50)
    await site.connect(plan)
    assert site.pod.links()["eth0"]["mtu"] == 1450
    await site.disconnect(plan)
    assert site.vm.links()["eth0"]["mtu"] == 1500


async def test_two_adapters_with_the_same_default_route(site: Site) -> None:
    """The second of them comes after the first (the kernel refuses two equal ones)."""
    first = adapter(site.wire("eth0"), V4, routes=[DEFAULT_4])
    second = adapter(site.wire("eth1"), ("10.8.0.2", 24), routes=[("0.0.0.0/0", "10.8.0.1", 0)])
    outcome = await site.connect(first, second)
    assert outcome.error == ""
    assert site.pod.routes(4) == {("default", "10.5.0.1", 0), ("default", "10.8.0.1", 1)}
    assert "another adapter has a route to everywhere with metric 0" in outcome.remarks[0]


async def test_a_name_that_is_taken(site: Site) -> None:
    """A second adapter gets the name of the first in the VM, since that has left."""
    first = adapter(site.wire(), V4)
    assert (await site.connect(first)).error == ""
    wire = site.wire()
    second = adapter(wire, ("10.8.0.2", 24))
    outcome = await site.connect(second)
    assert outcome.connected[0].interface == "eth1"
    assert "interface eth0 is eth1 in the container" in outcome.remarks
    assert set(site.pod.links()) == {"eth0", "eth1"}
    # Back again, both: they are known by their MAC address.
    assert (await site.disconnect(second, first)).error == ""
    assert {link["address"] for link in site.vm.links().values()} == {first.mac, second.mac}
    assert site.pod.links() == {}


async def test_a_makeshift_name_is_not_kept(site: Site) -> None:
    wire = site.wire("dev0")
    outcome = await site.connect(adapter(wire, V4))
    assert outcome.connected[0].interface == "eth0"


async def test_all_or_nothing(site: Site) -> None:
    first = adapter(site.wire("eth0"), V4, routes=[DEFAULT_4], encap_overhead=50, table=101)
    # Its own address can't be a gateway.
    second = adapter(site.wire("eth1"), V6, routes=[("::/0", "fd05::2", 0)], table=102)
    outcome = await site.connect(first, second)
    assert "network adapter eth1-id: interface eth1: adding the route to everywhere" in (
        outcome.error
    )
    assert outcome.left == ()
    assert site.pod.links() == {}
    assert site.pod.rules(4) == site.pod.rules(6) == []
    links = site.vm.links()
    assert set(links) == {"eth0", "eth1"}
    assert [link["mtu"] for link in links.values()] == [1500, 1500]
    assert not any("UP" in link["flags"] for link in links.values())


async def test_an_interface_that_is_gone(site: Site) -> None:
    wire = site.wire()
    plan = adapter(wire, V4)
    site.far.ip("link", "del", wire.far_name)
    outcome = await site.connect(plan)
    assert outcome.error == "network adapter eth0-id: the VM has no interface eth0"
    assert (await site.disconnect(plan)).error == ""


async def test_disconnecting_takes_the_rules_along(site: Site) -> None:
    wire = site.wire()
    plan = adapter(wire, V4, routes=[DEFAULT_4], table=101)
    await site.connect(plan)
    assert (await site.disconnect(plan)).error == ""
    assert site.pod.rules(4) == []
    assert site.vm.addresses("eth0", of_link=True) == set()
    await site.connect(plan)
    site.far.ip("link", "del", wire.far_name)  # unplugged while it was there
    assert (await site.disconnect(plan)).error == ""
    assert site.pod.rules(4) == []


async def test_in_place(site: Site) -> None:
    """A container with the VM's own network: nothing moves."""
    plan = adapter(site.wire(), V4, routes=[DEFAULT_4, ("10.9.0.0/16", "10.9.9.9", 0)])
    assert (await site.connect(plan, namespace=site.vm)).error == ""
    assert site.vm.addresses("eth0") == {"10.5.0.2/24"}
    assert ("default", "10.5.0.1", 0) in site.vm.routes(4)
    assert (await site.disconnect(plan, namespace=site.vm)).error == ""
    assert site.vm.addresses("eth0", of_link=True) == set()
    assert "UP" not in site.vm.links()["eth0"]["flags"]


async def test_dhcp(site: Site, tmp_path: Path) -> None:
    wire = site.wire()
    site.far.ip("address", "add", "10.5.0.1/24", "dev", wire.far_name)
    leases = tmp_path / "leases"
    leases.touch()
    configuration = tmp_path / "udhcpd.conf"
    configuration.write_text(
        f"start 10.5.0.20\nend 10.5.0.20\ninterface {wire.far_name}\nlease_file {leases}\n"
        f"pidfile {tmp_path}/pid\noption subnet 255.255.255.0\noption router 10.5.0.1\n"
        "option dns 10.5.0.53 10.5.0.54\noption domain example.test\n"
    )
    server = [*site.far.inside, "busybox", "udhcpd", "-f", os.fspath(configuration)]
    running = await asyncio.create_subprocess_exec(*server, stderr=subprocess.DEVNULL)
    try:
        outcome = await site.connect(adapter(wire))
    finally:
        running.kill()
        await running.wait()
    assert outcome.error == ""
    assert site.pod.addresses("eth0") == {"10.5.0.20/24"}
    assert {(route[0], route[1]) for route in site.pod.routes(4)} == {("default", "10.5.0.1")}
    assert outcome.connected[0].resolv_conf.splitlines() == [
        "search example.test",
        "nameserver 10.5.0.53",
        "nameserver 10.5.0.54",
    ]


async def test_dhcp_without_a_server(site: Site) -> None:
    outcome = await site.connect(adapter(site.wire()), dhcp_seconds=0.5)
    assert "interface eth0: no DHCP server has answered within 0.5 s" in outcome.error
    assert set(site.vm.links()) == {"eth0"}
    assert site.pod.links() == {}


async def test_a_worker_that_takes_too_long(site: Site) -> None:
    with pytest.raises(GcsError, match=r"did not finish within 0\.5 s"):
        await site.connect(adapter(site.wire()), limit=0.5)
    assert site.processes[0].popen.poll() is not None


async def test_a_worker_that_dies(site: Site) -> None:
    site.workers.prepare()
    site.processes[0].kill()
    with pytest.raises(GcsError, match=r"network worker has (failed|ended)"):
        await site.connect(adapter(site.wire(), V4))
    assert (await site.connect(adapter(site.wire("eth5"), V4))).error == ""


async def test_a_worker_that_can_not_be_started() -> None:
    def spawn(*_: object, **__: object) -> Process:
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(GcsError, match="can't be started: No such file or directory"):
        Workers(spawn).prepare()


async def test_a_prepared_worker_is_used_once(site: Site) -> None:
    site.workers.prepare()
    site.workers.prepare()
    assert len(site.processes) == 1
    assert (await site.connect(adapter(site.wire(), V4))).error == ""
    assert len(site.processes) == 1
    assert site.processes[0].popen.poll() is not None


async def test_a_worker_without_work_ends(site: Site) -> None:
    workers = Workers(site.spawn, idle=0.1)
    workers.prepare()
    assert await asyncio.to_thread(site.processes[0].popen.wait, 20) == 0
