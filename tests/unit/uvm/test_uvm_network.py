"""Networks as a person writes them, as QEMU is told, and as the agent is told."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gcs.protocol.settings import NetworkAdapter, Route
from uvm.errors import UvmError
from uvm.network.adapter import Adapter, settings, user_adapter
from uvm.network.checks import check_network
from uvm.network.options import (
    MOST_ADAPTERS,
    USER_NETWORK,
    choose_adapters,
    parse_network,
    parse_port,
)
from uvm.network.plugs import NetworkPlugs
from uvm.vm.machine import Machine, Wiring, qemu_command_line
from uvm.vm.nic import (
    MAX_ROOT_PORTS,
    Nic,
    PublishedPort,
    TapNetwork,
    UserNetwork,
    netdev_options,
    nic_device_options,
    root_port_options,
)
from uvm.vm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = Path(os.environ.get("GCS_GOLDEN", Path(__file__).parents[4] / "shared" / "golden"))
MAC = "52:54:00:aa:bb:cc"


def adapters(*networks: str, ports: tuple[str, ...] = ()) -> list[Adapter]:
    """The adapters of a command line."""
    return choose_adapters(
        [parse_network(text) for text in networks] or None, [parse_port(text) for text in ports]
    )


# --- what a person writes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", PublishedPort(8080, 80)),
        ("53:5353/udp", PublishedPort(53, 5353, "udp")),
        ("0.0.0.0:1:65535/tcp", PublishedPort(1, 65535, "tcp", "0.0.0.0")),
        ("127.0.0.2:8080:80", PublishedPort(8080, 80, host_address="127.0.0.2")),
    ],
)
def test_published_ports(text: str, port: PublishedPort) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("80", "is not of the form [HOSTIP:]HOSTPORT:PORT"),
        ("", "is not of the form"),
        (":80", "is not of the form"),
        ("80:", "is not of the form"),
        ("1.2.3.4:5:6:7", "is not of the form"),
        ("8080:0", "'0' is no port"),
        ("65536:80", "'65536' is no port"),
        ("a:80", "'a' is no port"),
        ("٣:80", "is no port"),
        ("-1:80", "'-1' is no port"),
        ("8080:80/sctp", "the protocol is tcp or udp, not 'sctp'"),
        ("8080:80/", "the protocol is tcp or udp, not ''"),
        ("localhost:8080:80", "'localhost' is no IPv4 address"),
        (":8080:80", "'' is no IPv4 address"),
        ("::1:8080:80", "is not of the form"),
    ],
)
def test_what_is_no_published_port(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as failure:
        parse_port(text)
    assert repr(text) in str(failure.value)


def test_a_user_mode_network_has_the_addresses_of_qemu() -> None:
    (adapter,) = adapters("user")
    assert adapter == user_adapter()
    assert adapter.addresses == ("10.0.2.15/24", "fec0:0:0:2::f/64")
    assert adapter.gateways == ("10.0.2.2", "fec0:0:0:2::2")
    assert adapter.dns_servers == ("10.0.2.3",)
    (adapter,) = adapters("user,subnet=77,no-ipv6,restrict,dns=1.1.1.1,search=a.b,search=c")
    assert adapter.addresses == ("10.0.77.15/24",)
    assert adapter.gateways == ("10.0.77.2",)
    assert (adapter.dns_servers, adapter.dns_search) == (("1.1.1.1",), ("a.b", "c"))
    assert adapter.network == UserNetwork(subnet=77, ipv6=False, restrict=True)


def test_without_a_word_it_depends_on_who_asks() -> None:
    assert choose_adapters(None, []) == []
    assert choose_adapters(None, [], USER_NETWORK) == [user_adapter()]
    assert choose_adapters([None], [], USER_NETWORK) == []


def test_addresses_from_a_server() -> None:
    (user,) = adapters("user,dhcp")
    assert (user.addresses, user.gateways, user.dns_servers) == ((), (), ("10.0.2.3",))
    (tap,) = adapters("tap=tap0")
    assert tap == Adapter(TapNetwork("tap0"))


def test_a_tap_device() -> None:
    text = "tap=br-x.1,address=192.0.2.9/28,address=2001:DB8::9/64,gateway=192.0.2.1"
    (adapter,) = adapters(f"{text},mac=52-54-00-AA-BB-CC,dns=192.0.2.1,dns=2001:db8::1")
    assert adapter == Adapter(
        TapNetwork("br-x.1"),
        addresses=("192.0.2.9/28", "2001:db8::9/64"),
        gateways=("192.0.2.1",),
        dns_servers=("192.0.2.1", "2001:db8::1"),
        mac=MAC,
    )


def test_several_networks_get_numbers_and_metrics_of_their_own() -> None:
    chosen = adapters("tap=t0", "user", "user,subnet=3", "user", ports=("8080:80", "53:53/udp"))
    assert [adapter.metric for adapter in chosen] == [0, 2048, 4096, 6144]
    networks = [adapter.network for adapter in chosen[1:]]
    assert [network.subnet for network in networks if isinstance(network, UserNetwork)] == [2, 3, 4]
    assert [len(adapter.ports) for adapter in chosen] == [0, 2, 0, 0]


def test_ports_alone_ask_for_a_network() -> None:
    (adapter,) = adapters(ports=("8080:80",))
    assert adapter.ports == (PublishedPort(8080, 80),)
    assert adapters("none") == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is no network: it is user"),
        ("bridge", "is no network: it is user"),
        ("user=1", "is no network: it is user"),
        ("tap", "is no network: it is user"),
        ("none,mac=1", "is no network"),
        ("tap=", "'' is no name of a tap device"),
        ("tap=..", "'..' is no name of a tap device"),
        ("tap=a/b", "'a/b' is no name of a tap device"),
        ("tap=sixteen-letters-", "is no name of a tap device"),
        ("user,address=10.0.2.9/24", "'address' is no setting of a user network"),
        ("tap=t0,restrict", "'restrict' is no setting of a tap network"),
        ("tap=t0,tap=t1", "'tap' is no setting of a tap network"),
        ("user,", "'' is no setting"),
        ("user,subnet", "subnet needs a value"),
        ("user,subnet=", "subnet needs a value"),
        ("user,dhcp=yes", "dhcp takes no value"),
        ("user,subnet=256", "subnet is a number from 0 to 255"),
        ("user,subnet=-1", "subnet is a number from 0 to 255"),
        ("user,subnet=1,subnet=2", "subnet is given more than once"),
        ("user,mac=52:54:00:00:00", "is no hardware address"),
        ("user,mac=00:00:00:00:00:00", "is no hardware address"),
        ("user,mac=53:54:00:00:00:01", "is a multicast address"),
        ("user,dns=one", "'one' is no IP address"),
        ("user,search=a b", "'a b' is no domain"),
        ("tap=t0,address=192.0.2.1", "is no address with a length"),
        ("tap=t0,address=192.0.2.1/33", "is no address with a length"),
        ("tap=t0,gateway=192.0.2.1", "needs an address of the same kind"),
        ("tap=t0,address=fd00::1/64,gateway=192.0.2.1", "needs an address of the same kind"),
        ("tap=t0,address=10.0.0.3/8,gateway=10.0.0.1,gateway=10.0.0.2", "several gateways"),
    ],
)
def test_what_is_no_network(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as failure:
        parse_network(text)
    assert repr(text) in str(failure.value)


@pytest.mark.parametrize(
    ("networks", "ports", "complaint"),
    [
        (("none", "user"), (), "--network none allows no other network"),
        (("none",), ("1:1",), "-p needs --network user"),
        (("tap=t0",), ("1:1",), "-p needs --network user"),
        (("tap=t0", "tap=t0"), (), "tap device t0 more than once"),
        ((f"user,mac={MAC}", f"user,mac={MAC}"), (), f"hardware address {MAC} more than once"),
        (("user,subnet=9", "user,subnet=9"), (), "subnet 9 more than once"),
        (("user",) * (MOST_ADAPTERS + 1), (), f"can have {MOST_ADAPTERS} networks, not 17"),
        (("user",), ("1:1", "1:2"), "-p names 127.0.0.1:1/tcp more than once"),
    ],
)
def test_options_that_contradict_each_other(
    networks: tuple[str, ...], ports: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        adapters(*networks, ports=ports)


# --- what the agent is told -----------------------------------------------------------------


def recorded_settings() -> list[dict[str, Any]]:
    """Settings of the requests about adapters in the recorded pod: its addition and its removal."""
    found = []
    for line in (GOLDEN / "pod-sandbox-workload-exec.jsonl").read_text().splitlines():
        request = json.loads(line)["body"].get("Request", {})
        if isinstance(request, dict) and request.get("ResourceType") == "Network":
            found.append(request["Settings"])
    return found


def test_the_agent_is_told_what_a_real_host_tells() -> None:
    added, _ = recorded_settings()
    adapter = Adapter(
        UserNetwork(),
        addresses=("10.11.0.2/24",),
        gateways=("10.11.0.1",),
        dns_servers=("10.1.1.2", "10.1.1.3"),
        dns_search=("corp.example.com", "example.com"),
    )
    request = settings(
        adapter,
        namespace_id=added["NamespaceID"],
        adapter_id=added["ID"],
        mac=added["MacAddress"].lower().replace("-", ":"),
    )
    assert msgspec.to_builtins(request) == added


def test_every_field_of_an_adapter() -> None:
    adapter = Adapter(
        UserNetwork(),
        addresses=("10.1.0.2/16", "fd00::2/64"),
        gateways=("10.1.0.1", "fd00::1"),
        metric=7,
        routes=(Route(next_hop="10.1.0.9", destination_prefix="10.2.0.0/16", metric=3),),
        mtu_overhead=50,
        policy_based_routing=True,
    )
    request = settings(adapter, namespace_id="n", adapter_id="a", mac=MAC)
    assert msgspec.to_builtins(request) == {
        "NamespaceID": "n",
        "ID": "a",
        "MacAddress": "52-54-00-AA-BB-CC",
        "IPConfigs": [
            {"IPAddress": "10.1.0.2", "PrefixLength": 16},
            {"IPAddress": "fd00::2", "PrefixLength": 64},
        ],
        "Routes": [
            {"NextHop": "10.1.0.1", "DestinationPrefix": "0.0.0.0/0", "Metric": 7},
            {"NextHop": "fd00::1", "DestinationPrefix": "::/0", "Metric": 7},
            {"NextHop": "10.1.0.9", "DestinationPrefix": "10.2.0.0/16", "Metric": 3},
        ],
        "EncapOverhead": 50,
        "PolicyBasedRouting": True,
    }
    assert msgspec.convert(msgspec.to_builtins(request), NetworkAdapter) == request


def test_an_adapter_survives_the_way_to_a_keeper() -> None:
    for adapter in adapters("user,restrict", "tap=t0,address=10.0.0.1/8", ports=("8080:80",)):
        assert msgspec.json.decode(msgspec.json.encode(adapter), type=Adapter) == adapter


# --- what QEMU is told ----------------------------------------------------------------------


def test_a_user_mode_network_for_qemu() -> None:
    network = UserNetwork((PublishedPort(8080, 80, "udp", "127.0.0.9"),), subnet=7, restrict=True)
    nic = Nic("net1", MAC, network, 9)
    assert netdev_options(nic) == {
        "type": "user",
        "id": "net1",
        "net": "10.0.7.0/24",
        "host": "10.0.7.2",
        "dns": "10.0.7.3",
        "dhcpstart": "10.0.7.15",
        "ipv4": True,
        "ipv6": True,
        "ipv6-prefix": "fec0:0:0:7::0",
        "ipv6-prefixlen": 64,
        "ipv6-host": "fec0:0:0:7::2",
        "ipv6-dns": "fec0:0:0:7::3",
        "restrict": True,
        "hostfwd": [{"str": "udp:127.0.0.9:8080-10.0.7.15:80"}],
    }
    device = nic_device_options(nic)
    assert (device["bus"], device["mac"], device["netdev"]) == ("port9", MAC, "net1")


def test_a_machine_with_adapters_and_ports_for_more() -> None:
    nic = Nic("net1", MAC, TapNetwork("tap0"))
    machine = Machine(kernel=Path("/k"), initrd=None, nics=(nic,), network_ports=2)
    command = qemu_command_line(machine, Wiring(Path("/c"), 9))
    assert json.loads(command[command.index("-netdev") + 1])["ifname"] == "tap0"
    devices = [command[at + 1] for at, word in enumerate(command) if word == "-device"]
    assert sum(device.startswith("pcie-root-port,") for device in devices) == 2
    assert any("virtio-net-pci" in device and '"bus": "pcie.0"' in device for device in devices)
    plain = qemu_command_line(replace(machine, nics=(), network_ports=0), Wiring(Path("/c"), 9))
    assert "-netdev" not in plain
    assert not any("root-port" in word for word in plain)


def test_ports_have_places_of_their_own() -> None:
    places = {root_port_options(number).split("addr=")[1] for number in range(MAX_ROOT_PORTS)}
    assert len(places) == MAX_ROOT_PORTS
    assert {"0x10.0", "0x10.7", "0x11.0", "0x13.7"} <= places


@pytest.mark.parametrize("subnet", [-1, 256])
def test_networks_that_can_not_be(subnet: int) -> None:
    with pytest.raises(ValueError, match="is not from 0 to 255"):
        UserNetwork(subnet=subnet)


# --- what the host has ----------------------------------------------------------------------


@pytest.fixture(params=["tcp", "udp"])
def taken(request: pytest.FixtureRequest) -> Iterator[PublishedPort]:
    """A port of this machine that somebody has."""
    kind = socket.SOCK_STREAM if request.param == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as owner:
        owner.bind(("127.0.0.1", 0))
        if request.param == "tcp":
            owner.listen()
        yield PublishedPort(owner.getsockname()[1], 80, request.param)


def test_a_port_that_is_taken(taken: PublishedPort) -> None:
    with pytest.raises(UvmError, match="another program uses it already") as failure:
        check_network(UserNetwork((taken,)))
    assert f"127.0.0.1:{taken.host_port}/{taken.protocol}" in str(failure.value)
    elsewhere = PublishedPort(taken.host_port, 80, taken.protocol, "127.0.0.77")
    check_network(UserNetwork((elsewhere,)))


def test_an_address_that_this_host_has_not() -> None:
    with pytest.raises(UvmError, match="this host has no such address"):
        check_network(UserNetwork((PublishedPort(8080, 80, "tcp", "192.0.2.200"),)))


def test_tap_devices(tmp_path: Path) -> None:
    with pytest.raises(UvmError, match="there is no tap device t0; `ip tuntap add t0"):
        check_network(TapNetwork("t0"), tmp_path)
    directory = tmp_path / "t0"
    directory.mkdir()
    (directory / "flags").write_text("0x1002\n")
    with pytest.raises(UvmError, match="t0 is a network interface, but no tap device"):
        check_network(TapNetwork("t0"), tmp_path)
    (directory / "tun_flags").write_text("0x1002\n")
    with pytest.raises(UvmError, match="tap device t0 is down; `ip link set t0 up`"):
        check_network(TapNetwork("t0"), tmp_path)
    (directory / "flags").write_text("0x1003\n")
    check_network(TapNetwork("t0"), tmp_path)


async def test_what_is_built_in_is_found_and_needs_no_port(tmp_path: Path) -> None:
    vm = VirtualMachine(Machine(kernel=Path("/k"), initrd=None), tmp_path)
    plugs = NetworkPlugs(vm)
    first, second = user_adapter(), user_adapter(subnet=3)
    plugs.build_in([first, second])
    assert [nic.network for nic in vm.machine.nics] == [first.network, second.network]
    assert len({nic.mac for nic in vm.machine.nics}) == 2
    assert await plugs.plug(second) == vm.machine.nics[1]
    nic = await plugs.plug(first)
    assert nic == vm.machine.nics[0]
    # It stays until the end of the VM.
    await plugs.unplug(nic)
    with pytest.raises(UvmError, match="the VM was booted with 0"):
        await plugs.plug(first)


def test_two_adapters_of_one_address_can_not_be_told_apart(tmp_path: Path) -> None:
    plugs = NetworkPlugs(VirtualMachine(Machine(kernel=Path("/k"), initrd=None), tmp_path))
    adapter = msgspec.structs.replace(user_adapter(), mac=MAC)
    with pytest.raises(UvmError, match=f"hardware address {MAC} already"):
        plugs.build_in([adapter, adapter])
