"""PCI devices that the host has assigned to a container, found in the VM (spec 4.5, no. 8)."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.devices import DeviceNode, all_devices
from gcs.runtime.pods.edit import AssignedDevices
from gcs.storage.driver import in_thread
from gcs.storage.paths import is_inside

if TYPE_CHECKING:
    from gcs.protocol.oci import Specification
    from gcs.runtime.pods.edit import Guest

logger = logging.getLogger(__name__)

GPU: Final = "gpu"
VPCI: Final = ("vpci", "vpci-instance-id")
_CLASSES: Final = {"c": "char", "b": "block"}


async def find_assigned_devices(view: Specification, guest: Guest) -> AssignedDevices:
    """Find the devices that a specification lists, waiting for their nodes.

    Raises:
        GcsError: A device isn't there, or its driver makes no node in time.
    """
    nodes: list[DeviceNode] = []
    locations = []
    for device in [] if view.windows is None else view.windows.devices:
        if device.id_type == GPU:
            locations.append(os.path.basename(await guest.find_pci_device(device.id)))
        elif device.id_type in VPCI:
            nodes += await _nodes_of(device.id, guest)
        else:
            logger.warning(
                "assigned device %s is of the unknown type %r: left out", device.id, device.id_type
            )
    return AssignedDevices(tuple(nodes), tuple(locations))


async def _nodes_of(device_id: str, guest: Guest) -> list[DeviceNode]:
    """Wait for the nodes of a device; nothing says how many there are going to be."""
    directory = await in_thread(os.path.realpath, await guest.find_pci_device(device_id))
    deadline = asyncio.get_running_loop().time() + guest.device_limit
    while True:
        nodes = await in_thread(_nodes_below, directory, guest)
        if nodes:
            return nodes
        if asyncio.get_running_loop().time() >= deadline:
            raise GcsError(
                f"assigned device {device_id} ({directory}) has no device node after "
                f"{guest.device_limit:g} s: is its driver installed?"
            )
        await asyncio.sleep(guest.device_interval)


def _nodes_below(directory: str, guest: Guest) -> list[DeviceNode]:
    found = []
    for node in all_devices(guest.device_directory):
        number = f"{node.major}:{node.minor}"
        link = os.path.join(guest.sysfs, "dev", _CLASSES[node.type], number)
        # Nodes of drivers that tell sysfs nothing have no link, which is then itself the path.
        if is_inside(os.path.realpath(link), directory):
            found.append(node)
    return found
