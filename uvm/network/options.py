"""Networks as a person writes them: ``--network`` and ``-p``."""

import ipaddress
import re
from typing import Final

from uvm.network.adapter import Adapter, user_adapter
from uvm.vm.nic import DEFAULT_SUBNET, PublishedPort, TapNetwork, UserNetwork

NETWORK_SYNTAX: Final = (
    "user[,ipv6][,subnet=N], tap=NAME[,address=ADDRESS/LENGTH][,gateway=ADDRESS] or none; "
    "user and tap take dns=ADDRESS, search=DOMAIN and mac=MAC, too"
)
PORT_SYNTAX: Final = "[HOSTIP:]HOSTPORT:PORT[/tcp|/udp]"

_LAST_PORT: Final = 65535
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE: Final = re.compile(r"[^\s/,]{1,15}")
#: Settings of each kind of network.
_USER: Final = frozenset(("ipv6", "subnet", "dns", "search", "mac"))
_TAP: Final = frozenset(("tap", "address", "gateway", "dns", "search", "mac"))


def parse_port(text: str) -> PublishedPort:
    """Return a published port of the form ``[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]``.

    Raises:
        ValueError: It is not of that form; says what is wrong.
    """
    ports, _, protocol = text.partition("/")
    *host, host_port, guest_port = ["", *ports.split(":")] if ":" in ports else ["", "", ""]
    if not host_port or len(host) > 2:
        raise ValueError(f"{text!r} is not of the form {PORT_SYNTAX}")
    if protocol not in ("", "tcp", "udp"):
        raise ValueError(f"{text!r}: the protocol is tcp or udp, not {protocol!r}")
    address = host[1] if len(host) > 1 else "127.0.0.1"
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise ValueError(f"{text!r}: {address!r} is no IPv4 address of a host") from None
    return PublishedPort(
        host_port=_port_number(text, host_port),
        guest_port=_port_number(text, guest_port),
        protocol="udp" if protocol == "udp" else "tcp",
        host_address=address,
    )


def parse_network(text: str) -> Adapter | None:
    """Return the adapter that ``--network`` describes; ``None`` for ``none``.

    Raises:
        ValueError: It is malformed; says what is wrong.
    """
    if text == "none":
        return None
    kind, values = _split(text)
    mac = values.get("mac", [""])[-1].lower()
    if mac and not _MAC.fullmatch(mac):
        raise ValueError(f"{text!r}: {mac!r} is no hardware address")
    if kind == "user":
        basis = _user(text, values)
    else:
        basis = Adapter(
            network=TapNetwork(values["tap"][0]),
            addresses=tuple(_interface(text, value) for value in values.get("address", ())),
            gateways=tuple(_address(text, value) for value in values.get("gateway", ())),
        )
    servers = tuple(_address(text, value) for value in values.get("dns", ()))
    return Adapter(
        network=basis.network,
        addresses=basis.addresses,
        gateways=basis.gateways,
        dns_servers=servers or basis.dns_servers,
        dns_search=tuple(values.get("search", ())),
        mac=mac,
    )


def choose_adapters(
    networks: list[Adapter | None] | None, ports: list[PublishedPort]
) -> list[Adapter]:
    """Return the adapters of a container, from all of its options.

    Args:
        networks: What ``--network`` said, each time; ``None``: it was not given.
        ports: What ``-p`` said.

    Raises:
        ValueError: They contradict each other.
    """
    adapters = [user_adapter()] if networks is None else [item for item in networks if item]
    if networks is not None and None in networks and len(networks) > 1:
        raise ValueError("--network none allows no other network")
    users = [item.network for item in adapters if isinstance(item.network, UserNetwork)]
    subnets = [network.subnet for network in users]
    if len(set(subnets)) < len(subnets):
        raise ValueError("several user networks need different numbers: --network user,subnet=N")
    if not ports:
        return adapters
    if not users:
        raise ValueError("-p needs --network user")
    taken = [(port.protocol, port.host_address, port.host_port) for port in ports]
    for key in taken:
        if taken.count(key) > 1:
            raise ValueError(f"-p names {key[1]}:{key[2]}/{key[0]} of the host more than once")
    at = next(i for i, item in enumerate(adapters) if item.network is users[0])
    published = UserNetwork(tuple(ports), users[0].subnet, users[0].ipv6)
    adapters[at] = _with_network(adapters[at], published)
    return adapters


def _with_network(adapter: Adapter, network: UserNetwork) -> Adapter:
    return Adapter(
        network=network,
        addresses=adapter.addresses,
        gateways=adapter.gateways,
        dns_servers=adapter.dns_servers,
        dns_search=adapter.dns_search,
        mac=adapter.mac,
    )


def _split(text: str) -> tuple[str, dict[str, list[str]]]:
    values: dict[str, list[str]] = {}
    first, *rest = text.split(",")
    kind, _, name = first.partition("=")
    if kind not in ("user", "tap") or (kind == "user") == ("=" in first):
        raise ValueError(f"{text!r} is no network: it is {NETWORK_SYNTAX}")
    if kind == "tap":
        if not _INTERFACE.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{text!r}: {name!r} is no name of a tap device")
        values["tap"] = [name]
    for item in rest:
        key, equals, value = item.partition("=")
        if key not in (_USER if kind == "user" else _TAP) or key == "tap":
            raise ValueError(f"{text!r}: {key!r} is no setting of a {kind} network")
        if (key == "ipv6") == bool(equals) or (equals and not value):
            form = key if key == "ipv6" else f"{key}=VALUE"
            raise ValueError(f"{text!r}: write {form}")
        values.setdefault(key, []).append(value)
    return kind, values


def _user(text: str, values: dict[str, list[str]]) -> Adapter:
    subnet = values.get("subnet", [str(DEFAULT_SUBNET)])[-1]
    try:
        return user_adapter(subnet=int(subnet), ipv6="ipv6" in values)
    except ValueError:
        raise ValueError(f"{text!r}: subnet is a number from 0 to 255") from None


def _port_number(text: str, number: str) -> int:
    if not (number.isascii() and number.isdecimal()) or not 0 < int(number) <= _LAST_PORT:
        raise ValueError(f"{text!r}: {number!r} is no port; ports are 1 to {_LAST_PORT}")
    return int(number)


def _address(text: str, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{text!r}: {value!r} is no IP address") from None


def _interface(text: str, value: str) -> str:
    try:
        if "/" not in value:
            raise ValueError
        return str(ipaddress.ip_interface(value))
    except ValueError:
        raise ValueError(
            f"{text!r}: {value!r} is no address with a length, as 192.168.5.2/24"
        ) from None
