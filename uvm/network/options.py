"""Networks as a person writes them: ``--network`` and ``-p``."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from uvm.network.adapter import Adapter, in_user_network
from uvm.vm.nic import DEFAULT_SUBNET, SUBNETS, PublishedPort, TapNetwork, UserNetwork

NETWORK_SYNTAX: Final = (
    "user[,subnet=N][,dhcp][,restrict][,no-ipv6], tap=NAME[,address=ADDRESS/LENGTH]"
    "[,gateway=ADDRESS] or none; user and tap take dns=ADDRESS, search=DOMAIN and mac=MAC, too"
)
PORT_SYNTAX: Final = "[HOSTIP:]HOSTPORT:PORT[/tcp|/udp]"
#: Most adapters of one container; a VM has no more slots for what is built in.
MOST_ADAPTERS: Final = 16

_LAST_PORT: Final = 65535
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NO_MAC: Final = "00:00:00:00:00:00"
_INTERFACE: Final = re.compile(r"[^\s/,:]{1,15}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")
#: By how much the metrics of the default routes of adapters differ; more than that which IPv6
#: gives a route that has none, 1024.
_METRIC_STEP: Final = 2048
#: What can be said of each kind of network: settings with a value, and without.
_VALUES: Final = {
    "user": frozenset(("subnet", "dns", "search", "mac")),
    "tap": frozenset(("address", "gateway", "dns", "search", "mac")),
}
_FLAGS: Final = {"user": frozenset(("dhcp", "restrict", "no-ipv6")), "tap": frozenset[str]()}
#: Settings that can be given more than once.
_LISTS: Final = frozenset(("address", "gateway", "dns", "search"))


@dataclass(frozen=True)
class NetworkWish:
    """What one ``--network`` says.

    Attributes:
        tap: Name of a tap device; ``None``: QEMU's user-mode network.
        subnet: Number of a user-mode network; ``None``: the next one.
        ipv6: Whether a user-mode network has IPv6.
        restrict: Whether it lets no connection out.
        dhcp: Have the guest ask for its addresses.
        addresses: Of the guest, in the network of a tap device, with lengths.
        gateways: There, one of each kind at most.
        dns: Name servers; empty: those of the network.
        search: Domains.
        mac: Hardware address; empty: a random one.
    """

    tap: str | None = None
    subnet: int | None = None
    ipv6: bool = True
    restrict: bool = False
    dhcp: bool = False
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mac: str = ""


#: ``--network none``.
NO_NETWORK: Final[list[NetworkWish | None]] = [None]
#: ``--network user``.
USER_NETWORK: Final[list[NetworkWish | None]] = [NetworkWish()]


def parse_port(text: str) -> PublishedPort:
    """Return a published port of the form ``[HOSTIP:]HOSTPORT:PORT[/PROTOCOL]``.

    Raises:
        ValueError: It is not of that form; says what is wrong.
    """
    ports, slash, protocol = text.partition("/")
    *host, host_port, guest_port = ports.split(":") if ":" in ports else ("", "")
    if len(host) > 1 or not host_port or not guest_port:
        raise ValueError(f"{text!r} is not of the form {PORT_SYNTAX}")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f"{text!r}: the protocol is tcp or udp, not {protocol!r}")
    address = host[0] if host else "127.0.0.1"
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


def parse_network(text: str) -> NetworkWish | None:
    """Return what ``--network`` says; ``None`` for ``none``.

    Raises:
        ValueError: It is malformed; says what is wrong.
    """
    if text == "none":
        return None
    first, *rest = text.split(",")
    kind, equals, tap = first.partition("=")
    if kind not in _VALUES or (kind == "tap") != bool(equals):
        raise ValueError(f"{text!r} is no network: it is {NETWORK_SYNTAX}")
    if kind == "tap" and (not _INTERFACE.fullmatch(tap) or tap in (".", "..")):
        raise ValueError(f"{text!r}: {tap!r} is no name of a tap device")
    flags, values = _settings(text, kind, rest)
    addresses = tuple(_interface(text, value) for value in values.get("address", ()))
    return NetworkWish(
        tap=tap if kind == "tap" else None,
        subnet=_subnet(text, values["subnet"][0]) if "subnet" in values else None,
        ipv6="no-ipv6" not in flags,
        restrict="restrict" in flags,
        dhcp="dhcp" in flags,
        addresses=addresses,
        gateways=_gateways(text, values.get("gateway", []), addresses),
        dns=tuple(_address(text, value) for value in values.get("dns", ())),
        search=tuple(_domain(text, value) for value in values.get("search", ())),
        mac=_mac(text, values["mac"][0]) if "mac" in values else "",
    )


def choose_adapters(
    networks: list[NetworkWish | None] | None,
    ports: list[PublishedPort],
    default: list[NetworkWish | None] = NO_NETWORK,
) -> list[Adapter]:
    """Return the adapters of a container, from all of its options.

    Published ports lead to the first user-mode network.

    Args:
        networks: What ``--network`` said, each time; ``None``: it was not given.
        ports: What ``-p`` said.
        default: What ``--network`` is where it is not given, nor ``-p``.

    Raises:
        ValueError: They contradict each other.
    """
    # -p alone asks for a network that it can lead to.
    unsaid = USER_NETWORK if ports else default
    given = unsaid if networks is None else networks
    wishes = [wish for wish in given if wish is not None]
    if wishes and None in given:
        raise ValueError("--network none allows no other network")
    if len(wishes) > MOST_ADAPTERS:
        raise ValueError(f"a container can have {MOST_ADAPTERS} networks, not {len(wishes)}")
    users = [number for number, wish in enumerate(wishes) if wish.tap is None]
    if ports and not users:
        raise ValueError("-p needs --network user")
    _check_unique([wish.tap for wish in wishes if wish.tap], "--network names tap device")
    _check_unique([wish.mac for wish in wishes if wish.mac], "--network names hardware address")
    _check_unique([port.host_place for port in ports], "-p names")
    numbers = _subnets(wishes)
    adapters = []
    for number, wish in enumerate(wishes):
        published = tuple(ports) if users and number == users[0] else ()
        adapter = _adapter(wish, numbers[number], published)
        adapters.append(replace(adapter, metric=number * _METRIC_STEP))
    return adapters


def _adapter(wish: NetworkWish, subnet: int, ports: tuple[PublishedPort, ...]) -> Adapter:
    if wish.tap is None:
        basis = in_user_network(UserNetwork(ports, subnet, wish.ipv6, wish.restrict))
        if wish.dhcp:
            basis = replace(basis, addresses=(), gateways=())
    else:
        basis = Adapter(TapNetwork(wish.tap), addresses=wish.addresses, gateways=wish.gateways)
    return replace(
        basis,
        dns_servers=wish.dns or basis.dns_servers,
        dns_search=wish.search,
        mac=wish.mac,
    )


def _subnets(wishes: list[NetworkWish]) -> list[int]:
    """Give each user-mode network a number that no other one has."""
    given = [wish.subnet for wish in wishes if wish.subnet is not None]
    _check_unique([str(number) for number in given], "--network names subnet")
    free = (number for number in range(DEFAULT_SUBNET, SUBNETS) if number not in given)
    return [
        wish.subnet if wish.subnet is not None else next(free) if wish.tap is None else 0
        for wish in wishes
    ]


def _check_unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name} more than once")


def _settings(text: str, kind: str, items: list[str]) -> tuple[set[str], dict[str, list[str]]]:
    flags: set[str] = set()
    values: dict[str, list[str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if key in _FLAGS[kind]:
            if equals:
                raise ValueError(f"{text!r}: {key} takes no value")
            flags.add(key)
        elif key not in _VALUES[kind]:
            raise ValueError(f"{text!r}: {key!r} is no setting of a {kind} network")
        elif not value:
            raise ValueError(f"{text!r}: {key} needs a value: {key}=VALUE")
        elif key in values and key not in _LISTS:
            raise ValueError(f"{text!r}: {key} is given more than once")
        else:
            values.setdefault(key, []).append(value)
    return flags, values


def _gateways(text: str, given: list[str], addresses: tuple[str, ...]) -> tuple[str, ...]:
    kinds = {ipaddress.ip_interface(address).version for address in addresses}
    gateways = [ipaddress.ip_address(_address(text, value)) for value in given]
    for gateway in gateways:
        if gateway.version not in kinds:
            raise ValueError(
                f"{text!r}: gateway {gateway} needs an address of the same kind: "
                "address=ADDRESS/LENGTH"
            )
    if len({gateway.version for gateway in gateways}) < len(gateways):
        raise ValueError(f"{text!r} has several gateways of one kind")
    return tuple(str(gateway) for gateway in gateways)


def _subnet(text: str, value: str) -> int:
    if value.isascii() and value.isdecimal() and int(value) < SUBNETS:
        return int(value)
    raise ValueError(f"{text!r}: subnet is a number from 0 to {SUBNETS - 1}")


def _mac(text: str, value: str) -> str:
    mac = value.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or mac == _NO_MAC:
        raise ValueError(f"{text!r}: {value!r} is no hardware address, as 52:54:00:12:34:56")
    if int(mac[:2], 16) & 1:
        raise ValueError(f"{text!r}: {value!r} is a multicast address: its first byte is odd")
    return mac


def _domain(text: str, value: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise ValueError(f"{text!r}: {value!r} is no domain")
    return value


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
