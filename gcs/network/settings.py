"""From the settings of a host to what is to be done with an adapter (spec 3.7, 6.3)."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from gcs.network.job import Adapter, Address, Route
from gcs.protocol.errors import InvalidArgumentError

if TYPE_CHECKING:
    from gcs.protocol.settings import IPConfig, NetworkAdapter, Route as RouteSettings

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
    IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Metric of the routes in an adapter's own table where the host gives none.
LOW_METRIC: Final = 500
_DEFAULT_ROUTES: Final = ("0.0.0.0/0", "::/0")
_GUID_CHARACTERS: Final = frozenset("0123456789abcdef-")
_MAC_DIGITS: Final = 12
_SHOWN: Final = 100


def check_adapter(settings: NetworkAdapter) -> None:
    """See that an adapter is named, and everything about it has a proper form.

    Raises:
        InvalidArgumentError: Saying what is wrong with which value.
    """
    if not settings.namespace_id:
        raise InvalidArgumentError(f"network adapter {_shown(settings.id)} has no NamespaceID")
    if not settings.id or not _GUID_CHARACTERS.issuperset(settings.id.lower()):
        raise InvalidArgumentError(f"network adapter {settings.id[:_SHOWN]!r} has no GUID as ID")
    if settings.mac_address:
        read_mac(settings)
    plan_adapter(settings, "", "", 0)


def read_mac(settings: NetworkAdapter) -> str:
    """Return an adapter's MAC address in the kernel's form: lower case, with colons.

    Raises:
        InvalidArgumentError: It is none, or that of a group.
    """
    text = settings.mac_address
    digits = text.lower().replace("-", "").replace(":", "")
    try:
        octets = bytes.fromhex(digits)
    except ValueError:
        octets = b""
    if len(digits) != _MAC_DIGITS or len(octets) != _MAC_DIGITS // 2 or octets[0] & 1:
        raise InvalidArgumentError(
            f"network adapter {_shown(settings.id)}: {text[:_SHOWN]!r} is no MAC address"
        )
    return octets.hex(":")


def plan_adapter(settings: NetworkAdapter, interface: str, mac: str, table: int) -> Adapter:
    """Return what is to be done with an adapter.

    Args:
        settings: From the host.
        interface: Its name.
        mac: Its MAC address, as the kernel says it.
        table: Routing table of its own, or 0.

    Raises:
        InvalidArgumentError: An address, a prefix or a route is malformed.
    """
    where = f"network adapter {_shown(settings.id)}"
    addresses = dict.fromkeys(_address(entry, where) for entry in settings.ip_configs)
    routes: dict[Route, None] = {}
    for entry in settings.routes:
        route = _route(entry, where, table)
        if route is not None:
            routes[route] = None
    return Adapter(
        id=settings.id,
        interface=interface,
        mac=mac,
        addresses=tuple(addresses),
        routes=tuple(routes),
        encapsulation=settings.encap_overhead,
        table=table,
    )


def _address(entry: IPConfig, where: str) -> Address:
    ip = _ip(entry.ip_address, where)
    if entry.prefix_length > ip.max_prefixlen:
        raise InvalidArgumentError(
            f"{where}: prefix length {entry.prefix_length} of address {ip} is more than "
            f"{ip.max_prefixlen}"
        )
    return Address(str(ip), entry.prefix_length, ip.version)


def _route(entry: RouteSettings, where: str, table: int) -> Route | None:
    """Return a route; ``None`` for one that says nothing: the default by no gateway."""
    metric = entry.metric or (LOW_METRIC if table else 0)
    gateway = None if not entry.next_hop else _ip(entry.next_hop, where)
    if entry.destination_prefix in _DEFAULT_ROUTES:
        if gateway is None:
            raise InvalidArgumentError(
                f"{where}: a default route without NextHop: gateway and destination cannot both be "
                "nil"
            )
        if gateway.version != (6 if ":" in entry.destination_prefix else 4):
            raise _mixed(entry, where)
        if gateway.is_unspecified:
            return None
        return Route("", str(gateway), metric, gateway.version)
    destination = _network(entry.destination_prefix, where)
    if gateway is None or gateway.is_unspecified:
        return Route(str(destination), "", metric, destination.version)
    if destination.version != gateway.version:
        raise _mixed(entry, where)
    return Route(str(destination), str(gateway), metric, destination.version)


def _mixed(entry: RouteSettings, where: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{where}: the route to {entry.destination_prefix} can't go by {entry.next_hop}: one is "
        "IPv4, the other IPv6"
    )


def _ip(text: str, where: str) -> IPAddress:
    try:
        ip = ipaddress.ip_address(text)
        if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
            raise ValueError
    except ValueError:
        raise InvalidArgumentError(f"{where}: {text[:_SHOWN]!r} is no IP address") from None
    return ip


def _network(text: str, where: str) -> IPNetwork:
    try:
        # Without its length a prefix could be anything.
        address, slash, length = text.partition("/")
        if not slash or not length.isdecimal():
            raise ValueError
        return ipaddress.ip_network(f"{address}/{int(length)}", strict=False)
    except ValueError:
        raise InvalidArgumentError(
            f"{where}: DestinationPrefix {text[:_SHOWN]!r} is no network: address/bits is wanted"
        ) from None


def _shown(text: str) -> str:
    return text[:_SHOWN]
