"""Puts the runtime floor together: which OCI runtime, which driver for which resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gcs.cgroup import detect
from gcs.runtime.children import Children
from gcs.runtime.host import Host
from gcs.runtime.memory import PodMemoryDriver, VmMemory
from gcs.runtime.namespaces import Namespaces
from gcs.runtime.network import Network, NetworkDriver
from gcs.runtime.pods.edit import Guest
from gcs.runtime.pods.security_context import SecurityContext
from gcs.runtime.resources import ResourceTable
from gcs.runtime.runc import Runc
from gcs.runtime.security_policy import SecurityPolicyDriver
from gcs.runtime.surroundings import Surroundings
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.combined_roots import CombinedRoots
from gcs.storage.mapped_directory import MappedDirectoryDriver
from gcs.storage.mounts import KernelMounts
from gcs.storage.pci import PciBus
from gcs.storage.pci_device import PciDeviceDriver
from gcs.storage.persistent_memory import PersistentMemoryDriver
from gcs.storage.scsi import ScsiBus
from gcs.storage.scsi_device import ScsiDeviceDriver
from gcs.storage.virtual_disk import VirtualDiskDriver

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.network.workers import Workers
    from gcs.protocol.responses import Notification
    from gcs.runtime.memory import MemoryOptions
    from gcs.runtime.oci import OciRuntime
    from gcs.storage.driver import ResourceDriver
    from gcs.transport import Transport


def make_host(
    *,
    transport: Transport,
    publish: Callable[[Notification], None],
    children: Children | None = None,
    runtime: OciRuntime | None = None,
    memory: MemoryOptions | None = None,
    open_door: Callable[[], None] = lambda: None,
) -> Host:
    """Return a host with nothing in it; to be called in the main thread, on the running loop.

    Args:
        transport: Dials the host for the streams of processes.
        publish: Takes the notifications of containers that have ended.
        children: Starts and watches processes; by default made here.
        runtime: Makes containers; by default runc.
        memory: How to share the memory of the VM; ``None``: the machine is none of the agent's.
        open_door: Called when a host has set the policy that allows everything.

    Raises:
        GcsError: There are no control groups, or the VM has too little memory.
    """
    cgroups = detect()
    vm_memory = None
    if memory is not None:
        vm_memory = VmMemory(cgroups, memory)
        vm_memory.start()
    if children is None:
        children = Children()
    namespaces = Namespaces()
    pci = PciBus()
    security = SecurityContext()
    guest = Guest(mounts=KernelMounts(), find_pci_device=pci.find, security=security)
    network = Network(lambda: _make_workers(children), pci.find)
    drivers = make_drivers(namespaces, network, transport, pci, vm_memory)
    drivers["SecurityPolicy"] = SecurityPolicyDriver(security, open_door)
    return Host(
        transport=transport,
        children=children,
        runtime=Runc(children) if runtime is None else runtime,
        resources=ResourceTable(drivers),
        surroundings=Surroundings(guest, cgroups, namespaces, network),
        publish=publish,
        memory=vm_memory,
    )


def make_drivers(
    namespaces: Namespaces,
    network: Network,
    transport: Transport,
    pci: PciBus,
    memory: VmMemory | None = None,
) -> dict[str, ResourceDriver[Any]]:
    """Return resource type → driver."""
    bus = ScsiBus()
    roots = CombinedRoots()
    return {
        "SCSIDevice": ScsiDeviceDriver(bus),
        "MappedVirtualDisk": VirtualDiskDriver(bus, roots=roots),
        "MappedDirectory": MappedDirectoryDriver(transport),
        "VPMemDevice": PersistentMemoryDriver(roots=roots),
        "CombinedLayers": CombinedLayersDriver(roots=roots),
        "VPCIDevice": PciDeviceDriver(pci),
        "Network": NetworkDriver(namespaces, network),
        "PodCgroupMemoryLimit": PodMemoryDriver(memory),
    }


def _make_workers(children: Children) -> Workers:
    from gcs.network.workers import Workers

    return Workers(children.spawn)
