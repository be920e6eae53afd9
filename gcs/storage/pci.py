"""PCI devices that the host assigns to the VM: from their VMBus GUID to sysfs (spec 5.4)."""

from __future__ import annotations

import os
from errno import ENODEV, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, Final

from gcs.linux import uevent
from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.storage.device_events import RECHECK, wait_for

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

#: How long a device may take to appear, in seconds; the host gives up a request after 300.
DEVICE_LIMIT: Final = 180.0

_GUID_CHARACTERS: Final = frozenset("0123456789abcdef-")
_BUS_PREFIX: Final = "pci"


class PciBus:
    """The PCI devices of the VM.

    root: directory that holds `sys`.
    limit: seconds to wait for a device.
    recheck, open_events: how to wait, see `device_events.wait_for`.
    """

    def __init__(
        self,
        *,
        root: str = "/",
        limit: float = DEVICE_LIMIT,
        recheck: float = RECHECK,
        open_events: Callable[[], socket.socket] = uevent.open_socket,
    ) -> None:
        self._vmbus = os.path.join(root, "sys/bus/vmbus/devices")
        self._limit = limit
        self._recheck = recheck
        self._open_events = open_events

    async def find(self, guid: str) -> str:
        """Return the directory in sysfs of the device that came by a channel of VMBus.

        Its name is the place on the PCI bus, such as `1234:00:00.0`.  Waits until it is there.

        guid: of the channel, in any case.

        Raises InvalidArgumentError for what is no GUID; GcsError when there are several devices,
        and when the time limit passes, saying how far it came.
        """
        name = guid.lower()
        if not name or not _GUID_CHARACTERS.issuperset(name):
            raise InvalidArgumentError(f"PCI device {guid[:100]!r} is not named by a GUID")
        channel = f"{self._vmbus}/{name}"
        found = await wait_for(
            lambda: _find_device(channel),
            limit=self._limit,
            recheck=self._recheck,
            open_events=self._open_events,
        )
        if found is None:
            raise GcsError(
                f"PCI device {guid} did not appear within {self._limit:g} s: nothing at "
                f"{channel}/{_BUS_PREFIX}*; check that the host assigned it to this VM"
            )
        return found


def _find_device(channel: str) -> str | None:
    """The only device on the bus `pci<domain>:<bus>` below a channel, or None."""
    found = [
        f"{channel}/{bus}/{device}"
        for bus in _entries(channel, _BUS_PREFIX)
        for device in _entries(f"{channel}/{bus}", bus.removeprefix(_BUS_PREFIX) + ":")
    ]
    if len(found) > 1:
        raise GcsError(f"more than one PCI device could match {channel}: {', '.join(found)}")
    return found[0] if found else None


def _entries(directory: str, prefix: str) -> list[str]:
    """Sorted names in a directory that begin with a prefix; none when it does not exist."""
    try:
        return sorted(name for name in os.listdir(directory) if name.startswith(prefix))
    except OSError as error:
        if error.errno not in (ENOENT, ENOTDIR, ENODEV):
            raise GcsError(f"cannot list {directory}: {error.strerror}") from error
        return []
