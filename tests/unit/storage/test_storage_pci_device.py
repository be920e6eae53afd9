"""The resource VPCIDevice: the guest waits for the device, and that is all (spec 3.8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.protocol.settings import VPCIDevice
from gcs.storage.pci import PciBus
from gcs.storage.pci_device import PciDeviceDriver

if TYPE_CHECKING:
    from pathlib import Path

GUID = "F8B3781A-1E82-4818-A1C3-63D806EC15BB"


async def test_add_waits_for_the_device(tmp_path: Path) -> None:
    driver = PciDeviceDriver(PciBus(root=str(tmp_path), recheck=0.01))
    adding = asyncio.create_task(driver.add(VPCIDevice(vmbus_guid=GUID)))
    done, _ = await asyncio.wait([adding], timeout=0.05)
    assert not done
    (tmp_path / f"sys/bus/vmbus/devices/{GUID.lower()}/pci1234:00/1234:00:00.0").mkdir(parents=True)
    await adding


async def test_what_is_refused(tmp_path: Path) -> None:
    driver = PciDeviceDriver(PciBus(root=str(tmp_path), limit=0.01))
    with pytest.raises(GcsError, match=f"PCI device {GUID} did not appear within"):
        await driver.add(VPCIDevice(vmbus_guid=GUID))
    with pytest.raises(InvalidArgumentError, match="not named by a GUID"):
        await driver.add(VPCIDevice(vmbus_guid="../x"))
    with pytest.raises(GcsError, match='the RequestType "Remove" is not supported'):
        await driver.remove(VPCIDevice(vmbus_guid=GUID))
