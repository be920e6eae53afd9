"""The resource SCSIDevice: eject and nothing else (spec 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import ScsiDevice
from gcs.storage.scsi_device import ScsiDeviceDriver
from tests.support.storage import SystemTree

if TYPE_CHECKING:
    from pathlib import Path


async def test_remove_ejects_and_the_rest_is_refused(tmp_path: Path) -> None:
    tree = SystemTree(tmp_path / "root")
    tree.add_vmbus_host(2, 5)
    tree.add_disk(5, 63, "sdb")
    driver = ScsiDeviceDriver(tree.bus())
    await driver.remove(ScsiDevice(controller=2, lun=63))
    await driver.remove(ScsiDevice(controller=2, lun=62))
    assert (tree.root / "sys/bus/scsi/devices/5:0:0:63/delete").read_bytes() == b"1\n"
    with pytest.raises(GcsError, match='the RequestType "Add" is not supported'):
        await driver.add(ScsiDevice())


async def test_a_disk_that_a_mapped_device_is_made_of_stays(tmp_path: Path) -> None:
    tree = SystemTree(tmp_path / "root")
    tree.add_vmbus_host(0, 5)
    tree.add_disk(5, 1, "sdb")
    block = tree.root / "sys/bus/scsi/devices/5:0:0:1/block/sdb"
    (block / "holders/dm-3").mkdir(parents=True)
    name = tree.root / "sys/block/dm-3/dm/name"
    name.parent.mkdir(parents=True)
    name.write_text("dm-verity-x\n")
    with pytest.raises(GcsError, match="LUN 1: still a part of dm-verity-x"):
        await ScsiDeviceDriver(tree.bus()).remove(ScsiDevice(lun=1))
    assert (tree.root / "sys/bus/scsi/devices/5:0:0:1/delete").read_bytes() == b""
