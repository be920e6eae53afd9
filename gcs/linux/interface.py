"""Flags of network interfaces (netdevice(7)), for the loopback device at boot.

Everything else about networks is done over netlink, in another process.  PID 1 imports this module,
hence `_socket`: importing `socket` takes 12 ms, `_socket` half a millisecond.
"""

from __future__ import annotations

import errno
import fcntl
from _socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, socket

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
IFF_RUNNING = 0x40

_NAME_SIZE = 16
_REQUEST_SIZE = 40


def _request(name: str, flags: int = 0) -> bytes:
    """A `struct ifreq`; ValueError when the name is too long for one."""
    encoded = name.encode()
    if len(encoded) >= _NAME_SIZE:
        raise ValueError(f"interface name {name!r} is longer than {_NAME_SIZE - 1} bytes")
    return (encoded.ljust(_NAME_SIZE, b"\0") + flags.to_bytes(2, "little")).ljust(
        _REQUEST_SIZE, b"\0"
    )


def interface_flags(name: str) -> int:
    """The IFF_* flags of an interface; OSError (ENODEV) naming it when there is none."""
    channel = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        return _get_flags(channel, name)
    finally:
        channel.close()


def bring_up(name: str) -> None:
    """Set an interface up, through every address family that the kernel has (IPv4, IPv6).

    Raises OSError naming the interface, ENODEV when there is none.
    """
    for family in (AF_INET, AF_INET6):
        try:
            channel = socket(family, SOCK_DGRAM | SOCK_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EAFNOSUPPORT:
                continue
            raise
        try:
            flags = _get_flags(channel, name) | IFF_UP | IFF_RUNNING
            _ioctl(channel, SIOCSIFFLAGS, "SIOCSIFFLAGS", name, flags)
        finally:
            channel.close()


def _get_flags(channel: socket, name: str) -> int:
    answer = _ioctl(channel, SIOCGIFFLAGS, "SIOCGIFFLAGS", name)
    return int.from_bytes(answer[_NAME_SIZE : _NAME_SIZE + 2], "little")


def _ioctl(channel: socket, request: int, action: str, name: str, flags: int = 0) -> bytes:
    try:
        return bytes(fcntl.ioctl(channel.fileno(), request, _request(name, flags)))
    except OSError as error:
        raise OSError(error.errno, f"ioctl {action}: {error.strerror}", name) from None
