"""Links, addresses, routes and rules of one network namespace, over netlink.  For the worker."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from errno import EADDRNOTAVAIL, EEXIST, EHOSTUNREACH, ENETUNREACH, ENODEV, ENOENT, ESRCH
from typing import TYPE_CHECKING, Any, Final

from gcs.network.netlink import (
    ADD_ADDRESS,
    ADD_ROUTE,
    ADD_RULE,
    GET_ADDRESSES,
    GET_LINKS,
    REMOVE_ADDRESS,
    REMOVE_RULE,
    SET_LINK,
    NetlinkError,
    RouteSocket,
)
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.network.job import Address, Route

    _Message = tuple[dict[str, int], list[tuple[str, Any]]]

#: Rules for a table of an adapter's own come before those for the main one (spec 6.3).
RULE_PRIORITY: Final = 5
#: The table of all namespaces that is looked up without a rule of ours (rtnetlink(7)).
MAIN_TABLE: Final = 254
# Addresses come from a host that knows which are free: looking for duplicates (RFC 4862) would keep
# IPv6 addresses from being used for a second or two (linux/if_addr.h: IFA_F_NODAD).
_NO_DUPLICATE_DETECTION: Final = 0x02
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_HOST_BITS: Final = {4: 32, 6: 128}
_GONE: Final = (ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL)
# IPv6 routes without a metric get this one (linux/ipv6_route.h: IP6_RT_PRIO_USER).
_IPV6_METRIC: Final = 1024
_METRIC_ATTEMPTS: Final = 16
# linux/rtnetlink.h: RTNH_F_ONLINK, the gateway is a neighbour whatever the subnets say.
_ONLINK: Final = 0x04
_IFF_UP: Final = 0x1
# linux/rtnetlink.h and linux/fib_rules.h: RTPROT_STATIC, RTN_UNICAST, FR_ACT_TO_TBL.
_STATIC: Final = 4
_UNICAST: Final = 1
_TO_TABLE: Final = 1


class Links:
    """The links of the network namespace that the calling thread is in when this is made.

    Args:
        place: What it is, for messages.

    Attributes:
        netlink: Socket of the namespace.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.netlink = RouteSocket()

    def close(self) -> None:
        """Close the socket."""
        self.netlink.close()

    def find(self, name: str) -> Link | None:
        """Return the link of this name."""
        for message in self.netlink.dump(GET_LINKS):
            if message.get_attr("IFLA_IFNAME") == name:
                return Link(self, message)
        return None

    def require(self, name: str) -> Link:
        """Return the link of this name.

        Raises:
            GcsError: There is none.
        """
        link = self.find(name)
        if link is None:
            raise GcsError(f"{self.place} has no interface {name}")
        return link

    def find_again(self, name: str, mac: str) -> Link | None:
        """Return the link of this MAC address, the one of this name if there are several."""
        found = None
        for message in self.netlink.dump(GET_LINKS):
            if message.get_attr("IFLA_ADDRESS") == mac and (
                found is None or message.get_attr("IFLA_IFNAME") == name
            ):
                found = Link(self, message)
        return found

    def names(self) -> set[str]:
        """Return the names of all links, the other names of links among them."""
        found: set[str] = set()
        for message in self.netlink.dump(GET_LINKS):
            found.add(message.get_attr("IFLA_IFNAME"))
            for properties in message.get_attrs("IFLA_PROP_LIST"):
                found.update(properties.get_attrs("IFLA_ALT_IFNAME"))
        return found

    def free_name(self, wanted: str) -> str:
        """Return a name that no link has: the one wanted, or else that of a numbered Ethernet link.

        The kernel's own way out when a link comes back to a namespace where its name is taken is
        ``dev<n>``; who comes from there gets an ordinary name again.
        """
        taken = self.names()
        if wanted not in taken and not _is_makeshift(wanted):
            return wanted
        number = 0
        while f"eth{number}" in taken:
            number += 1
        return f"eth{number}"

    def add_rule(self, address: Address, table: int) -> None:
        """Make what leaves from an address look in a table first."""
        with _naming(self.place, f"adding the rule for {address.ip}"):
            self.netlink.change(ADD_RULE, *_rule(address, table))

    def remove_rule(self, address: Address, table: int) -> None:
        """Undo add_rule; a rule that is not there is fine."""
        with _naming(self.place, f"removing the rule for {address.ip}", _GONE):
            self.netlink.change(REMOVE_RULE, *_rule(address, table))


class Link:
    """A link.

    Attributes:
        name: Its name.
        index: The kernel's number of it in its namespace.
        mtu: Its MTU in bytes, when it was looked up.
        is_up: Whether it was up then.
    """

    def __init__(self, links: Links, message: Any) -> None:
        self.name: str = message.get_attr("IFLA_IFNAME")
        self.mtu: int = message.get_attr("IFLA_MTU")
        self.is_up = bool(message["flags"] & _IFF_UP)
        self._links = links
        self.index: int = message["index"]

    @property
    def _label(self) -> str:
        return f"interface {self.name}"

    def set_up(self) -> None:
        """Take it into operation."""
        self._set("taking it up", flags=_IFF_UP, change=_IFF_UP)

    def set_down(self) -> None:
        """Take it out of operation; its routes go."""
        self._set("taking it down", change=_IFF_UP)

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes."""
        self._set(f"setting its MTU to {mtu}", ("IFLA_MTU", mtu))

    def move(self, namespace: int, links: Links) -> None:
        """Move it, taken down before, to another namespace, where it gets a name that is free.

        Args:
            namespace: Descriptor of that.
            links: The links there.
        """
        name = links.free_name(self.name)
        named = () if name == self.name else (("IFLA_IFNAME", name),)
        self._set(f"moving it to {links.place}", ("IFLA_NET_NS_FD", namespace), *named)
        there = links.require(name)
        # The MTU stays as it was known: what the kernel makes of it on the way is no news.
        self.name, self.index, self._links = name, there.index, links

    def move_back(self, namespace: int, links: Links) -> None:
        """Move it there, unless it is there already."""
        if self._links is not links:
            self.move(namespace, links)

    def add_address(self, address: Address) -> None:
        """Add an address."""
        with _naming(self._label, f"adding address {address.ip}/{address.prefix}"):
            self._links.netlink.change(ADD_ADDRESS, *self._address(address))

    def remove_address(self, address: Address) -> None:
        """Remove an address; one that is not there is fine."""
        with _naming(self._label, f"removing address {address.ip}/{address.prefix}", _GONE):
            self._links.netlink.change(REMOVE_ADDRESS, *self._address(address))

    def addresses(self) -> Iterator[str]:
        """Return all its addresses, as ``address/bits``."""
        for message in self._links.netlink.dump(GET_ADDRESSES):
            if message["index"] == self.index:
                ip = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                yield f"{ip}/{message['prefixlen']}"

    def add_route(self, route: Route, table: int) -> str:
        """Add a route.

        A gateway outside the adapter's subnets is taken to be on its link.  (The reference makes
        the gateway's address one of the adapter's own, spec 6.3: IPv6 refuses such a gateway, and
        with IPv4 the container takes itself for it.)  Where another adapter has the same route
        already, this one comes after it, by a greater metric.

        Args:
            route: The route.
            table: Where to add it; 0: the main table.

        Returns:
            A remark, or "".
        """
        action = f"adding the route to {route.destination or 'everywhere'}"
        if route.gateway:
            action += f" by {route.gateway}"
        with _naming(self._label, action):
            try:
                return self._add_route(route, table)
            except NetlinkError as error:
                if error.errno not in (ENETUNREACH, EHOSTUNREACH) or not route.gateway:
                    raise
            return self._add_route(route, table, flags=_ONLINK)

    def _add_route(self, route: Route, table: int, flags: int = 0) -> str:
        asked = route.metric or (_IPV6_METRIC if route.version == 6 else 0)
        for attempt in range(_METRIC_ATTEMPTS):
            try:
                self._links.netlink.change(
                    ADD_ROUTE, *_route(route, table, self.index, asked + attempt, flags)
                )
            except NetlinkError as error:
                if error.errno != EEXIST or attempt == _METRIC_ATTEMPTS - 1:
                    raise
            else:
                break
        if not attempt:
            return ""
        destination = route.destination or "everywhere"
        return (
            f"interface {self.name}: another adapter has a route to {destination} with metric "
            f"{asked}: this one has {asked + attempt}"
        )

    def _address(self, address: Address) -> _Message:
        fields = {
            "family": _FAMILIES[address.version],
            "prefixlen": address.prefix,
            "flags": _NO_DUPLICATE_DETECTION if address.version == 6 else 0,
            "index": self.index,
        }
        return fields, [("IFA_LOCAL", address.ip), ("IFA_ADDRESS", address.ip)]

    def _set(
        self, action: str, *attributes: tuple[str, Any], flags: int = 0, change: int = 0
    ) -> None:
        fields = {"index": self.index, "flags": flags, "change": change}
        with _naming(self._label, action):
            self._links.netlink.change(SET_LINK, fields, attributes)


def _rule(address: Address, table: int) -> _Message:
    fields = {
        "family": _FAMILIES[address.version],
        "src_len": _HOST_BITS[address.version],
        "action": _TO_TABLE,
    }
    attributes = [("FRA_SRC", address.ip), ("FRA_TABLE", table), ("FRA_PRIORITY", RULE_PRIORITY)]
    return fields, attributes


def _route(route: Route, table: int, index: int, metric: int, flags: int) -> _Message:
    destination, _, length = route.destination.partition("/")
    fields = {
        "family": _FAMILIES[route.version],
        "dst_len": int(length or 0),
        "proto": _STATIC,
        "type": _UNICAST,
        "flags": flags,
    }
    attributes: list[tuple[str, Any]] = [("RTA_TABLE", table or MAIN_TABLE), ("RTA_OIF", index)]
    if destination:
        attributes.append(("RTA_DST", destination))
    if route.gateway:
        attributes.append(("RTA_GATEWAY", route.gateway))
    if metric:
        attributes.append(("RTA_PRIORITY", metric))
    return fields, attributes


@contextmanager
def _naming(what: str, action: str, fine: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn netlink's errors into ones that say what was done to what.

    Args:
        what: The link, or the namespace.
        action: What is done.
        fine: Error numbers that mean there was nothing to do.
    """
    try:
        yield
    except NetlinkError as error:
        if error.errno not in fine:
            raise GcsError(f"{what}: {action}: {error.strerror}") from error


def _is_makeshift(name: str) -> bool:
    return name.startswith("dev") and name[3:].isdecimal()
