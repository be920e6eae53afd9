"""Whether the host has what a network needs, said before QEMU says it less clearly."""

import errno
import socket
from pathlib import Path
from typing import Final

from uvm.errors import UvmError
from uvm.vm.nic import PublishedPort, TapNetwork, UserNetwork

_INTERFACES: Final = Path("/sys/class/net")
_UP: Final = 1  # IFF_UP
_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def check_network(network: UserNetwork | TapNetwork, interfaces: Path = _INTERFACES) -> None:
    """Check that published ports are free, or that a tap device is ready.

    Args:
        network: The network.
        interfaces: The kernel's directory of network interfaces.

    Raises:
        UvmError: Something is missing or taken.
    """
    if isinstance(network, TapNetwork):
        _check_tap(network.interface, interfaces)
    else:
        for port in network.ports:
            _check_port(port)


def _check_port(port: PublishedPort) -> None:
    with socket.socket(socket.AF_INET, _KINDS[port.protocol]) as probe:
        if port.protocol == "tcp":
            # As QEMU does: what is left of ended connections is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host_address, port.host_port))
        except OSError as error:
            reasons = {
                errno.EADDRINUSE: "another program uses it already",
                errno.EACCES: "ports below 1024 are for root",
                errno.EADDRNOTAVAIL: "this host has no such address",
            }
            reason = reasons.get(error.errno or 0, error.strerror)
            raise UvmError(f"can't publish a port at {port.host_place}: {reason}") from None


def _check_tap(name: str, interfaces: Path) -> None:
    directory = interfaces / name
    if not directory.is_dir():
        raise UvmError(
            f"there is no tap device {name}; `ip tuntap add {name} mode tap user $USER && "
            f"ip link set {name} up` makes one"
        )
    if not (directory / "tun_flags").exists():
        raise UvmError(f"{name} is a network interface, but no tap device")
    if not int((directory / "flags").read_text(), 16) & _UP:
        raise UvmError(f"tap device {name} is down; `ip link set {name} up` brings it up")
