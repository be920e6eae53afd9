"""A network adapter as a host describes it to the agent (spec 2.7, 3.7)."""

import ipaddress
import secrets
from typing import Final

import msgspec

from gcs.protocol.settings import IPConfig, NetworkAdapter, Route
from uvm.vm.nic import (
    DEFAULT_SUBNET,
    DNS_NUMBER,
    GUEST_NUMBER,
    HOST_NUMBER,
    PublishedPort,
    TapNetwork,
    UserNetwork,
)

#: First half of the hardware addresses that QEMU gives its adapters.
_MAC_PREFIX: Final = (0x52, 0x54, 0x00)
_IPV6_BITS: Final = 64


class Adapter(msgspec.Struct, frozen=True):
    """An adapter and how it is to be configured.

    Attributes:
        network: What it is connected to.
        addresses: IP addresses with the lengths of their prefixes, as ``10.0.2.15/24``; without
            any the guest asks a DHCP server.
        gateways: Where packets to other networks go, one for IPv4 and one for IPv6.
        metric: Of the routes to the gateways; of several ways, the least one is taken. 0 leaves it
            to the guest's kernel.
        routes: Further routes of one's own.
        dns_servers: Addresses of name servers.
        dns_search: Domains in which names are looked up.
        mac: Hardware address, lower-case, with colons; empty: a random one.
        mtu_overhead: Bytes of each packet that an encapsulation takes.
        policy_based_routing: Packets from an address of this adapter leave by it, unless it is the
            first one of its namespace, which has the main routing table.
    """

    network: UserNetwork | TapNetwork
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    metric: int = 0
    routes: tuple[Route, ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    mac: str = ""
    mtu_overhead: int = 0
    policy_based_routing: bool = False

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Its published ports."""
        return self.network.ports if isinstance(self.network, UserNetwork) else ()


def user_adapter(
    ports: tuple[PublishedPort, ...] = (), *, subnet: int = DEFAULT_SUBNET, ipv6: bool = True
) -> Adapter:
    """Return an adapter in a user-mode network of QEMU, with the addresses of the guest there.

    Args:
        ports: Published ports.
        subnet: Number of the network; see :class:`UserNetwork`.
        ipv6: Give it IPv6, too.
    """
    return in_user_network(UserNetwork(ports, subnet, ipv6))


def in_user_network(network: UserNetwork) -> Adapter:
    """Return an adapter with the guest's addresses in a user-mode network of QEMU."""
    addresses = [f"{network.address(GUEST_NUMBER)}/24"]
    gateways = [network.address(HOST_NUMBER)]
    if network.ipv6:
        addresses.append(f"{network.address6(GUEST_NUMBER)}/{_IPV6_BITS}")
        gateways.append(network.address6(HOST_NUMBER))
    return Adapter(
        network=network,
        addresses=tuple(addresses),
        gateways=tuple(gateways),
        dns_servers=(network.address(DNS_NUMBER),),
    )


def random_mac() -> str:
    """Return a hardware address of the range that QEMU uses."""
    return ":".join(f"{number:02x}" for number in (*_MAC_PREFIX, *secrets.token_bytes(3)))


def settings(adapter: Adapter, *, namespace_id: str, adapter_id: str, mac: str) -> NetworkAdapter:
    """Return the ``Network`` resource for an adapter.

    Args:
        adapter: How it is to be configured.
        namespace_id: The network namespace, a GUID.
        adapter_id: The adapter, a GUID.
        mac: Its hardware address, which a host writes in capitals with dashes.
    """
    interfaces = [ipaddress.ip_interface(address) for address in adapter.addresses]
    return NetworkAdapter(
        namespace_id=namespace_id,
        id=adapter_id,
        mac_address=mac.upper().replace(":", "-"),
        ip_configs=[
            IPConfig(ip_address=str(interface.ip), prefix_length=interface.network.prefixlen)
            for interface in interfaces
        ],
        routes=[
            *(_default_route(gateway, adapter.metric) for gateway in adapter.gateways),
            *adapter.routes,
        ],
        dns_suffix=",".join(adapter.dns_search),
        dns_server_list=",".join(adapter.dns_servers),
        encap_overhead=adapter.mtu_overhead,
        policy_based_routing=adapter.policy_based_routing,
    )


def _default_route(gateway: str, metric: int) -> Route:
    everywhere = "0.0.0.0/0" if ipaddress.ip_address(gateway).version == 4 else "::/0"
    return Route(next_hop=gateway, destination_prefix=everywhere, metric=metric)
