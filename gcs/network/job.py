"""What the agent and its network worker tell each other.

Both are one value in msgpack, after its length in 4 bytes, little endian.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import socket

LENGTH_BYTES: Final = 4
#: Longest message that is believed, in bytes.
LONGEST: Final = 16 * 1024 * 1024


class Address(msgspec.Struct, frozen=True):
    """An address of an adapter.

    Attributes:
        ip: As text, in its canonical form.
        prefix: Bits of the subnet.
        version: Of the internet protocol, 4 or 6.
    """

    ip: str
    prefix: int
    version: int


class Route(msgspec.Struct, frozen=True):
    """A route by an adapter.

    Attributes:
        destination: Network, as ``address/bits``; "" is the default route.
        gateway: Address of the next hop; "" when the destination is on the link.
        metric: Less is better; 0 leaves it to the kernel.
        version: Of the internet protocol, 4 or 6.
    """

    destination: str
    gateway: str
    metric: int
    version: int


class Adapter(msgspec.Struct, frozen=True):
    """An adapter, and how it is to be configured.

    Attributes:
        id: By which the host knows it.
        interface: Name of the interface.
        mac: Its MAC address, by which it is found again whatever its name is.
        addresses: To be added; without any, they come by DHCP.
        routes: To be added, in this order.
        encapsulation: Bytes of the MTU that the host's network needs for itself.
        table: Routing table of its own for what leaves from its addresses; 0: the main one.
    """

    id: str
    interface: str
    mac: str
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    encapsulation: int
    table: int


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """Move adapters out of the VM's namespace into another one, and configure them there.

    The descriptor of that namespace goes with it.  If it is the VM's own, nothing is moved.
    All or nothing: when one fails, all are back in the VM's namespace.

    Attributes:
        adapters: In the order in which to do it.
        dhcp_script: Program that udhcpc calls.
        dhcp_seconds: How long each DHCP server may take.
    """

    adapters: tuple[Adapter, ...]
    dhcp_script: str
    dhcp_seconds: float


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """Undo Connect, however far it came; adapters that are gone are fine.

    Attributes:
        adapters: `interface` is the name in the other namespace, if it is known.
    """

    adapters: tuple[Adapter, ...]


Job = Connect | Disconnect


class Connected(msgspec.Struct, frozen=True):
    """An adapter that was connected.

    Attributes:
        interface: Its name now.
        addresses: All it has, as ``address/bits``, for the log.
        resolv_conf: Name servers and domains that came by DHCP, as a file has them.
    """

    interface: str
    addresses: tuple[str, ...]
    resolv_conf: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a job.

    Attributes:
        error: Why it failed; "" when it didn't.
        defect: Traceback of an error that nobody expected.
        left: What could not be undone after the failure.
        connected: For each adapter of a Connect, in order.
        remarks: For the log.
    """

    error: str = ""
    defect: str = ""
    left: tuple[str, ...] = ()
    connected: tuple[Connected, ...] = ()
    remarks: tuple[str, ...] = ()


def pack(message: Job | Outcome) -> bytes:
    """Return a message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def receive(channel: socket.socket, length: int) -> bytes:
    """Read so many bytes from a blocking socket; fewer when the other side closes it."""
    data = bytearray()
    while len(data) < length and (piece := channel.recv(length - len(data))):
        data += piece
    return bytes(data)
