"""Resource `SCSIDevice`: the host is about to detach a disk (spec 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.settings import ScsiDevice
from gcs.storage.driver import ResourceDriver
from gcs.storage.scsi import DiskAddress

if TYPE_CHECKING:
    from gcs.storage.scsi import ScsiBus


class ScsiDeviceDriver(ResourceDriver[ScsiDevice]):
    """Ejects disks; they are attached without the guest's help."""

    def __init__(self, bus: ScsiBus) -> None:
        self._bus = bus

    async def remove(self, settings: ScsiDevice) -> None:
        """Eject the disk; see `ScsiBus.eject`."""
        await self._bus.eject(DiskAddress(settings.controller, settings.lun))
