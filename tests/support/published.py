"""Ports of this machine, to be published by a VM."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from uvm.vm.nic import PublishedPort

if TYPE_CHECKING:
    from uvm.vm.nic import Protocol

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def published(protocol: Protocol = "tcp", guest_port: int = 80) -> PublishedPort:
    """A port that is free now, for a port of a container."""
    with socket.socket(socket.AF_INET, _KINDS[protocol]) as probe:
        probe.bind(("127.0.0.1", 0))
        return PublishedPort(probe.getsockname()[1], guest_port, protocol)


def is_free(port: PublishedPort) -> bool:
    """Whether nobody listens there."""
    with socket.socket(socket.AF_INET, _KINDS[port.protocol]) as probe:
        if port.protocol == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host_address, port.host_port))
        except OSError:
            return False
        return True
