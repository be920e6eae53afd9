"""Finding the interface of an adapter in sysfs (spec 6.2).  Everything here blocks, but shortly."""

from __future__ import annotations

import os
from errno import EINVAL, ENODEV, ENOENT, ENOTDIR
from typing import Final

from gcs.protocol.errors import GcsError

_GONE: Final = (ENOENT, ENOTDIR, ENODEV)


def has_vmbus(root: str = "/") -> bool:
    """Tell whether this VM has Hyper-V's bus, by whose ids adapters are found."""
    return os.path.isdir(os.path.join(root, "sys/bus/vmbus/devices"))


def find_by_instance(instance: str, root: str = "/") -> str | None:
    """Return the interface of a VMBus device.

    Args:
        instance: Its GUID, in any case.
        root: Directory that holds ``sys``.

    Raises:
        GcsError: It has several.
    """
    return find_in(os.path.join(root, "sys/bus/vmbus/devices", instance.lower(), "net"))


def find_in(directory: str) -> str | None:
    """Return the only interface in the ``net`` directory of a device; ``None`` without any.

    Raises:
        GcsError: There are several.
    """
    names = _entries(directory)
    if len(names) > 1:
        raise GcsError(f"{directory} has {len(names)} interfaces, not one: {', '.join(names)}")
    return names[0] if names else None


def find_by_mac(mac: str, root: str = "/") -> str | None:
    """Return the interface that has a MAC address.

    Args:
        mac: In lower case, with colons.
        root: Directory that holds ``sys``.

    Raises:
        GcsError: Several have it.
    """
    directory = os.path.join(root, "sys/class/net")
    names = [name for name in _entries(directory) if _read_mac(f"{directory}/{name}") == mac]
    if len(names) > 1:
        raise GcsError(f"MAC address {mac} belongs to several interfaces: {', '.join(names)}")
    return names[0] if names else None


def read_mac_of(interface: str, root: str = "/") -> str:
    """Return the MAC address of an interface; "" when it is gone."""
    return _read_mac(os.path.join(root, "sys/class/net", interface))


def _read_mac(interface: str) -> str:
    try:
        with open(f"{interface}/address") as file:
            return file.read().strip().lower()
    except OSError as error:
        # EINVAL: an interface that is on its way out.
        if error.errno not in (*_GONE, EINVAL):
            raise GcsError(f"cannot read {interface}/address: {error.strerror}") from error
        return ""


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        if error.errno not in _GONE:
            raise GcsError(f"cannot list {directory}: {error.strerror}") from error
        return []
