"""Storage says what it does under the names operators know (spec appendix C)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from gcs.protocol import trace
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import (
    REMOVE,
    CombinedLayers,
    Layer,
    MappedVirtualDisk,
    ScsiDevice,
    VerityInfo,
    VPMemDevice,
    VPMemMappingInfo,
)
from gcs.runtime.resources import ResourceTable
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.persistent_memory import PersistentMemoryDriver
from gcs.storage.scsi_device import ScsiDeviceDriver
from gcs.storage.virtual_disk import VirtualDiskDriver
from tests.support.layer_images import make_verified
from tests.support.mapper import RecordingMapper
from tests.support.storage import RecordingMounts, SystemTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gcs.protocol.trace import Span


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    """Spans that have ended."""
    ended: list[Span] = []
    before = trace._export
    trace.set_exporter(ended.append)
    yield ended
    trace.set_exporter(before)


async def test_a_disk_that_does_not_come(spans: list[Span], tmp_path: Path) -> None:
    bus = SystemTree(tmp_path).bus(limit=0.0)
    settings = MappedVirtualDisk(mount_path="/run/x", controller=1, lun=2, partition=3)
    with trace.span("request") as request, pytest.raises(GcsError):
        await VirtualDiskDriver(bus, RecordingMounts()).add(settings)
    search, mount = spans[:2]
    assert (search.name, mount.name) == ("scsi::GetDevicePath", "scsi::Mount")
    place = {"controller": 1, "lun": 2, "partition": 3}
    assert search.attributes == place
    assert mount.attributes == {**place, "target": "/run/x"}
    assert search.parent_id == mount.context.span_id
    assert mount.parent_id == request.context.span_id
    assert "did not appear" in search.error
    assert mount.error.endswith(search.error)


async def test_disks_on_their_way_out(spans: list[Span], tmp_path: Path) -> None:
    bus = SystemTree(tmp_path).bus()
    path = str(tmp_path / "mounted")
    await VirtualDiskDriver(bus, RecordingMounts()).remove(MappedVirtualDisk(mount_path=path))
    await ScsiDeviceDriver(bus).remove(ScsiDevice(controller=0, lun=5))
    assert [span.name for span in spans] == [
        "storage::UnmountPath",
        "scsi::Unmount",
        "scsi::UnplugDevice",
    ]
    assert spans[0].attributes == {"target": path, "remove": True}
    assert spans[2].attributes == {"controller": 0, "lun": 5}


async def test_layers(spans: list[Span], tmp_path: Path) -> None:
    layers = [str(tmp_path / name) for name in ("top", "bottom")]
    for layer in ("top", "bottom"):
        (tmp_path / layer).mkdir()
    root, scratch = str(tmp_path / "c/rootfs"), str(tmp_path / "c/scratch")
    settings = CombinedLayers(
        container_root_path=root,
        layers=[Layer(path=path) for path in layers],
        scratch_path=scratch,
    )
    await CombinedLayersDriver(RecordingMounts()).add(settings)
    inner, outer = spans
    assert (inner.name, outer.name) == ("overlay::Mount", "overlay::MountLayer")
    assert inner.attributes == {
        "lowerdir": ":".join(layers),
        "upperdirPath": f"{scratch}/upper",
        "workdirPath": f"{scratch}/work",
        "target": root,
        "readonly": False,
    }
    assert outer.attributes == {"target": root, "scratchPath": scratch}
    assert inner.parent_id == outer.context.span_id


async def test_layers_without_a_scratch(spans: list[Span], tmp_path: Path) -> None:
    root = str(tmp_path / "c/rootfs")
    settings = CombinedLayers(container_root_path=root, layers=[Layer(path=str(tmp_path))])
    driver = CombinedLayersDriver(RecordingMounts())
    await driver.add(settings)
    await driver.remove(settings)
    mount, _, unmount = spans
    assert mount.attributes["readonly"] is True
    assert mount.attributes["upperdirPath"] == ""
    assert (unmount.name, unmount.attributes["target"]) == ("storage::UnmountPath", root)


async def test_a_checked_part_of_persistent_memory(spans: list[Span], tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    node = tmp_path / "dev/pmem3"
    digest = make_verified(node, "ext4", {"f": "x"})
    size = node.stat().st_size // 4096 * 4096
    mapper = RecordingMapper(tmp_path / "mapper")
    driver = PersistentMemoryDriver(RecordingMounts(), mapper, root=str(tmp_path))
    settings = VPMemDevice(
        device_number=3,
        mount_path=str(tmp_path / "m"),
        mapping_info=VPMemMappingInfo(device_size_in_bytes=size),
        verity_info=VerityInfo(root_digest=digest),
    )
    await driver.add(settings)
    await driver.remove(settings)
    linear, verity, mount, path, unmount = spans
    name = f"dm-linear-pmem3-0-{size}"
    assert linear.name == "devicemapper::CreateZeroSectorLinearTarget"
    assert linear.attributes == {
        "devicePath": str(node),
        "deviceStart": 0,
        "sectorSize": size,
        "linearTable": f"{name}: '0 {size // 512} {node} 0'",
    }
    assert verity.name == "devicemapper::CreateVerityTarget"
    (target,) = mapper.made[f"dm-verity-pmem3-{digest}"]
    assert verity.attributes == {
        "devicePath": str(mapper.directory / name),
        "sectorSize": target.sectors,
        "verityTable": target.parameters,
    }
    assert digest in target.parameters
    assert mount.name == "pmem::Mount"
    assert mount.attributes == {"deviceNumber": 3, "target": settings.mount_path}
    assert linear.parent_id == verity.parent_id == mount.context.span_id
    assert (path.name, unmount.name) == ("storage::UnmountPath", "pmem::Unmount")
    assert unmount.attributes == {"device": 3, "target": settings.mount_path}


async def test_a_device_that_fails_its_checks_says_so_in_its_span(
    spans: list[Span], tmp_path: Path
) -> None:
    (tmp_path / "dev").mkdir()
    digest = make_verified(tmp_path / "dev/pmem0", "ext4", {"f": "x"})
    mapper = RecordingMapper(tmp_path / "mapper")
    mapper.failures[f"dm-verity-pmem0-{digest}"] = errno.EINVAL
    driver = PersistentMemoryDriver(RecordingMounts(), mapper, root=str(tmp_path))
    settings = VPMemDevice(
        mount_path=str(tmp_path / "m"), verity_info=VerityInfo(root_digest=digest)
    )
    with pytest.raises(GcsError):
        await driver.add(settings)
    verity, mount = spans
    assert "Invalid argument" in verity.error
    assert mount.error.startswith("persistent memory ")


async def test_a_request_of_the_host(spans: list[Span], tmp_path: Path) -> None:
    table = ResourceTable({"SCSIDevice": ScsiDeviceDriver(SystemTree(tmp_path).bus())})
    await table.modify("SCSIDevice", REMOVE, ScsiDevice(lun=1))
    eject, request = spans
    assert request.name == "gcs::Host::modifySCSIDevice"
    assert request.attributes == {"requestType": "Remove"}
    assert eject.parent_id == request.context.span_id
