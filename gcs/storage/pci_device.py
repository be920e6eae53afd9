"""Resource `VPCIDevice`: a PCI device that the host has assigned to the VM (spec 3.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.settings import VPCIDevice
from gcs.storage.driver import ResourceDriver

if TYPE_CHECKING:
    from gcs.storage.pci import PciBus


class PciDeviceDriver(ResourceDriver[VPCIDevice]):
    """Waits for devices; a host takes them away without the guest's help.

    bus: finds them.
    """

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    async def add(self, settings: VPCIDevice) -> None:
        """Wait until the device is there; see `PciBus.find`."""
        await self._bus.find(settings.vmbus_guid)
