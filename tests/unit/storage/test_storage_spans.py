"""Storage says what it does under the names operators know (spec appendix C)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.protocol import trace
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import CombinedLayers, Layer, MappedVirtualDisk, ScsiDevice
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.scsi_device import ScsiDeviceDriver
from gcs.storage.virtual_disk import VirtualDiskDriver
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
    }
    assert inner.parent_id == outer.context.span_id
