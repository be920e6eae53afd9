"""Settings of the resources a host adds, removes and updates (spec chapter 3)."""

from typing import Any, Final

import msgspec

from gcs.protocol.message import Int32, Message, Uint8, Uint16, Uint32

ADD: Final = "Add"
REMOVE: Final = "Remove"
PRE_ADD: Final = "PreAdd"
UPDATE: Final = "Update"


class ScsiDevice(Message):
    """A disk to eject (spec 3.2)."""

    controller: Uint8 = 0
    lun: Uint8 = 0


class VerityInfo(Message):
    """dm-verity parameters of a read-only layer (spec 3.3).

    Hosts no longer send it.  The agent reads all of this from the device; with a root digest it
    checks the layer against that.
    """

    ext4_size_in_bytes: int = msgspec.field(name="Ext4SizeInBytes", default=0)
    version: int = 0
    algorithm: str = ""
    super_block: bool = False
    root_digest: str = ""
    salt: str = ""
    block_size: int = 0


class MappedVirtualDisk(Message):
    """A SCSI disk to mount, or to link to as a block device (spec 3.3).

    Attributes:
        mount_path: Where; empty means do nothing.
        controller: SCSI controller number, 0 to 3.
        lun: Logical unit number.
        partition: Partition number; 0 is the whole disk.
        read_only: Mount read-only.
        encrypted: Put dm-crypt under the file system.
        options: Mount options.
        block_dev: Make a symlink to the device node instead of a mount.
        verity_info: Root digest that the disk must have, checked with each read.
        ensure_filesystem: Format when the disk holds no file system of the type asked for.
        filesystem: ``ext4`` (default) or ``xfs``.
    """

    mount_path: str = ""
    controller: Uint8 = 0
    lun: Uint8 = 0
    partition: int = 0
    read_only: bool = False
    encrypted: bool = False
    options: list[str] = msgspec.field(default_factory=list)
    block_dev: bool = False
    verity_info: VerityInfo | None = None
    ensure_filesystem: bool = False
    filesystem: str = ""


class MappedDirectory(Message):
    """A directory of the host, shared by 9p over vsock (spec 3.4)."""

    mount_path: str = ""
    port: Int32 = 0
    share_name: str = ""
    read_only: bool = False


class VPMemMappingInfo(Message):
    """A part of a persistent memory device, in bytes (spec 3.5)."""

    device_offset_in_bytes: int = 0
    device_size_in_bytes: int = 0


class VPMemDevice(Message):
    """A layer on a persistent memory device (spec 3.5)."""

    device_number: Uint32 = 0
    mount_path: str = ""
    mapping_info: VPMemMappingInfo | None = None
    verity_info: VerityInfo | None = None


class Layer(Message):
    """One layer of a container's root file system."""

    id: str = ""
    path: str = ""
    path_type: str = ""
    cache: str = ""


class CombinedLayers(Message):
    """Layers to be laid over each other, top-most first (spec 3.6).

    Attributes:
        container_id: For policy only.
        container_root_path: Where the overlay is mounted.
        layers: Read-only layers, mounted already.
        scratch_path: Directory for ``upper`` and ``work``; empty makes a read-only root.
    """

    container_id: str = msgspec.field(name="ContainerID", default="")
    container_root_path: str = ""
    layers: list[Layer] = msgspec.field(default_factory=list)
    scratch_path: str = ""


class IPConfig(Message):
    """An address of an adapter."""

    ip_address: str = msgspec.field(name="IPAddress", default="")
    prefix_length: Uint8 = 0


class Route(Message):
    """A route of an adapter."""

    next_hop: str = ""
    destination_prefix: str = ""
    metric: Uint16 = 0


class NetworkAdapter(Message):
    """A network adapter of a namespace (spec 3.7)."""

    namespace_id: str = msgspec.field(name="NamespaceID", default="")
    id: str = msgspec.field(name="ID", default="")
    mac_address: str = ""
    ip_configs: list[IPConfig] = msgspec.field(name="IPConfigs", default_factory=list)
    routes: list[Route] = msgspec.field(default_factory=list)
    dns_suffix: str = msgspec.field(name="DNSSuffix", default="")
    dns_server_list: str = msgspec.field(name="DNSServerList", default="")
    enable_low_metric: bool = False
    encap_overhead: Uint16 = 0
    vpci_assigned: bool = msgspec.field(name="VPCIAssigned", default=False)
    policy_based_routing: bool = False


class VPCIDevice(Message):
    """A PCI device assigned to the VM (spec 3.8)."""

    vmbus_guid: str = msgspec.field(name="VMBusGUID", default="")


class ContainerConstraints(Message):
    """New limits of a container: OCI ``LinuxResources`` (spec 3.9)."""

    linux: dict[str, Any] | None = None


class ContainerState(Message):
    """Whether the processes of a container are to run.

    An addition of this agent's, with RequestType ``Update``: hosts of the reference never send it.

    Attributes:
        state: ``Paused`` or ``Running``.
    """

    state: str = ""


class SecurityPolicy(Message):
    """The security policy of the VM (spec 3.10)."""

    enforcer_type: str = ""
    encoded_security_policy: str = ""
    encoded_uvm_reference: str = msgspec.field(name="EncodedUVMReference", default="")
    encoded_uvm_hash_envelope_reference: str = msgspec.field(
        name="EncodedUVMHashEnvelopeReference", default=""
    )


class SecurityPolicyFragment(Message):
    """A signed part of a security policy (spec 3.11)."""

    fragment: str = ""
    media_type: str = ""


#: Resource type on the wire → its settings; ``None``: the resource has no settings (spec 3.1).
SETTINGS: Final[dict[str, type[Message] | None]] = {
    "SCSIDevice": ScsiDevice,
    "MappedVirtualDisk": MappedVirtualDisk,
    "MappedDirectory": MappedDirectory,
    "VPMemDevice": VPMemDevice,
    "CombinedLayers": CombinedLayers,
    "Network": NetworkAdapter,
    "VPCIDevice": VPCIDevice,
    "ContainerConstraints": ContainerConstraints,
    "ContainerState": ContainerState,
    "SecurityPolicy": SecurityPolicy,
    "SecurityPolicyFragment": SecurityPolicyFragment,
    "PodCgroupMemoryLimit": None,
}
