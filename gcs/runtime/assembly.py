"""Puts the runtime floor together: which OCI runtime, which driver for which resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gcs.runtime.children import Children
from gcs.runtime.host import Host
from gcs.runtime.resources import ResourceTable
from gcs.runtime.runc import Runc
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.scsi import ScsiBus
from gcs.storage.scsi_device import ScsiDeviceDriver
from gcs.storage.virtual_disk import VirtualDiskDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.protocol.responses import Notification
    from gcs.storage.driver import ResourceDriver
    from gcs.transport import Transport


def make_host(
    *,
    transport: Transport,
    publish: Callable[[Notification], None],
    runtime_program: str = "runc",
) -> Host:
    """Return a host with nothing in it; to be called in the main thread, on the running loop.

    Args:
        transport: Dials the host for the streams of processes.
        publish: Takes the notifications of containers that have ended.
        runtime_program: The OCI runtime: a name, found in PATH, or a path.
    """
    children = Children()
    return Host(
        transport=transport,
        children=children,
        runtime=Runc(children, program=runtime_program),
        resources=ResourceTable(make_drivers()),
        publish=publish,
    )


def make_drivers() -> dict[str, ResourceDriver[Any]]:
    """Return resource type → driver."""
    bus = ScsiBus()
    return {
        "SCSIDevice": ScsiDeviceDriver(bus),
        "MappedVirtualDisk": VirtualDiskDriver(bus),
        "CombinedLayers": CombinedLayersDriver(),
    }
