"""Network adapters of a machine as data, and what QEMU is told about them."""

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

#: Number of QEMU's own user-mode network: 10.0.2.0/24.
DEFAULT_SUBNET: Final = 2
#: The guest's number in user-mode networks.
GUEST_NUMBER: Final = 15
#: The host's.
HOST_NUMBER: Final = 2
#: The name server's.
DNS_NUMBER: Final = 3
#: Most root ports a machine can have.
MAX_ROOT_PORTS: Final = 32
#: How many numbers user-mode networks can have.
SUBNETS: Final = 256

Protocol = Literal["tcp", "udp"]


class PublishedPort(msgspec.Struct, frozen=True):
    """A port of the host that leads to one of a container.

    Attributes:
        host_port: Where the host listens.
        guest_port: Where the container does.
        protocol: ``tcp`` or ``udp``.
        host_address: IPv4 address of the host; ``0.0.0.0`` means all.
    """

    host_port: int
    guest_port: int
    protocol: Protocol = "tcp"
    host_address: str = "127.0.0.1"

    @property
    def host_place(self) -> str:
        """Where the host listens, as a person writes it."""
        return f"{self.host_address}:{self.host_port}/{self.protocol}"

    def __str__(self) -> str:
        """Return it as a person writes it."""
        return f"{self.host_address}:{self.host_port}:{self.guest_port}/{self.protocol}"


class UserNetwork(msgspec.Struct, frozen=True, tag=True):
    """QEMU's user-mode network: connections of the guest become connections of QEMU.

    The host has address 2 in it, where its loopback addresses answer; its name server has 3; the
    guest has 15, and a DHCP server tells it.

    Attributes:
        ports: Published ports.
        subnet: ``N`` in 10.0.N.0/24 and fec0:0:0:N::/64. Adapters of one namespace need different
            ones, others don't: nobody else is in it.
        ipv6: Whether there is IPv6, too.
        restrict: Let no connection out, neither to the host nor beyond; published ports still lead
            in.
    """

    ports: tuple[PublishedPort, ...] = ()
    subnet: int = DEFAULT_SUBNET
    ipv6: bool = True
    restrict: bool = False

    def __post_init__(self) -> None:
        """Check the number."""
        if not 0 <= self.subnet < SUBNETS:
            raise ValueError(f"subnet {self.subnet} is not from 0 to {SUBNETS - 1}")

    def address(self, number: int) -> str:
        """Return the IPv4 address of a number."""
        return f"10.0.{self.subnet}.{number}"

    def address6(self, number: int) -> str:
        """Return the IPv6 address of a number."""
        return f"fec0:0:0:{self.subnet:x}::{number:x}"


class TapNetwork(msgspec.Struct, frozen=True, tag=True):
    """A tap device of the host, which somebody has made and brought up.

    Attributes:
        interface: Its name.
    """

    interface: str


@dataclass(frozen=True)
class Nic:
    """A network adapter.

    Attributes:
        name: Names its parts in QEMU; unique in the machine.
        mac: Hardware address, lower-case, with colons.
        network: What it is connected to.
        port: Root port it is plugged into; ``None``: built in from the start.
    """

    name: str
    mac: str
    network: UserNetwork | TapNetwork
    port: int | None = None

    @property
    def device(self) -> str:
        """Name of its QEMU device."""
        return f"dev-{self.name}"


def netdev_options(nic: Nic) -> dict[str, object]:
    """Return the arguments of QMP ``netdev_add``, and of ``-netdev`` in JSON."""
    network = nic.network
    if isinstance(network, TapNetwork):
        return {
            "type": "tap",
            "id": nic.name,
            "ifname": network.interface,
            "script": "no",
            "downscript": "no",
        }
    options: dict[str, object] = {
        "type": "user",
        "id": nic.name,
        "net": f"{network.address(0)}/24",
        "host": network.address(HOST_NUMBER),
        "dns": network.address(DNS_NUMBER),
        "dhcpstart": network.address(GUEST_NUMBER),
        # One of the two alone would turn the other off.
        "ipv4": True,
        "ipv6": network.ipv6,
        "restrict": network.restrict,
    }
    if network.ipv6:
        options["ipv6-prefix"] = network.address6(0)
        options["ipv6-prefixlen"] = 64
        options["ipv6-host"] = network.address6(HOST_NUMBER)
        options["ipv6-dns"] = network.address6(DNS_NUMBER)
    if network.ports:
        options["hostfwd"] = [{"str": _forward(port, network)} for port in network.ports]
    return options


def nic_device_options(nic: Nic) -> dict[str, object]:
    """Return the arguments of QMP ``device_add``, and of ``-device`` in JSON."""
    return {
        "driver": "virtio-net-pci",
        "id": nic.device,
        "bus": "pcie.0" if nic.port is None else root_port_name(nic.port),
        "netdev": nic.name,
        "mac": nic.mac,
        # Nothing boots from it.
        "romfile": "",
    }


def root_port_name(number: int) -> str:
    """Return the name of the bus of a root port."""
    return f"port{number}"


def root_port_options(number: int) -> str:
    """Return the value of ``-device`` for a root port.

    Eight of them are functions of one device; numbers 0x10 and up leave the low slots to others.
    """
    slot, function = divmod(number, 8)
    return (
        f"pcie-root-port,id={root_port_name(number)},chassis={number + 1},io-reserve=0,"
        f"multifunction=on,addr={0x10 + slot:#x}.{function}"
    )


def _forward(port: PublishedPort, network: UserNetwork) -> str:
    guest = network.address(GUEST_NUMBER)
    return f"{port.protocol}:{port.host_address}:{port.host_port}-{guest}:{port.guest_port}"
