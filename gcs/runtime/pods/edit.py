"""A specification that is being edited, and where the edits find and leave things."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gcs.protocol.errors import InvalidJsonError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import ExitStack

    from gcs.protocol.oci import Specification
    from gcs.runtime.pods.annotations import Annotations
    from gcs.runtime.pods.devices import DeviceNode
    from gcs.runtime.pods.kind import Identity
    from gcs.runtime.pods.network_files import Dns
    from gcs.runtime.pods.sandbox_root import SandboxRoot
    from gcs.runtime.pods.security_context import SecurityContext
    from gcs.storage.mounts import MountSystem

#: Where programs are looked for when the agent has no PATH; the one PID 1 sets.
DEFAULT_PATH: Final = "/sbin:/usr/sbin:/bin:/usr/bin"


class Guest:
    """The VM as far as edits look at it.

    Args:
        mounts: Mounts and unmounts.
        find_pci_device: Awaited with the VMBus GUID of an assigned device; returns the directory
            of the PCI device in sysfs, whose name is its bus location, or raises GcsError.
        device_directory: Where device nodes are.
        sysfs: Where sysfs is mounted.
        hostname: The name of the VM; by default what the kernel says.
        path: Directories, separated by colons, with the programs of hooks.
        device_limit: How long device nodes of an assigned device may take to appear, in seconds.
        device_interval: Time between two looks, in seconds.
        security: What containers get to show of the VM; by default nothing.
    """

    __slots__ = (
        "device_directory",
        "device_interval",
        "device_limit",
        "find_pci_device",
        "hostname",
        "mounts",
        "path",
        "security",
        "sysfs",
    )

    def __init__(
        self,
        *,
        mounts: MountSystem,
        find_pci_device: Callable[[str], Awaitable[str]],
        device_directory: str = "/dev",
        sysfs: str = "/sys",
        hostname: str | None = None,
        path: str | None = None,
        device_limit: float = 60.0,
        device_interval: float = 0.5,
        security: SecurityContext | None = None,
    ) -> None:
        self.mounts = mounts
        self.find_pci_device = find_pci_device
        self.device_directory = device_directory
        self.sysfs = sysfs
        self.hostname = os.uname().nodename if hostname is None else hostname
        self.path = os.environ.get("PATH", DEFAULT_PATH) if path is None else path
        self.device_limit = device_limit
        self.device_interval = device_interval
        if security is None:
            from gcs.runtime.pods.security_context import SecurityContext

            security = SecurityContext()
        self.security = security


class AssignedDevices(msgspec.Struct, frozen=True):
    """What the PCI devices assigned to a container turned out to be.

    Attributes:
        nodes: Their device nodes, graphics processors aside.
        gpu_locations: PCI bus locations of graphics processors.
    """

    nodes: tuple[DeviceNode, ...] = ()
    gpu_locations: tuple[str, ...] = ()


class Edit:
    """One specification being edited.

    Attributes:
        document: Changed in place.
        view: What it was as it came.
        identity: The container.
        annotations: Values of its annotations.
        bundle: Its directory.
        root: Root directory of its pod, or of itself.
        host_network: Whether it uses the network of the VM.
        guest: Where things are.
        dns: Content of its resolv.conf.
        assigned: Its devices.
        undo: Gets the removal of everything that an edit makes outside of the document.
    """

    __slots__ = (
        "annotations",
        "assigned",
        "bundle",
        "dns",
        "document",
        "guest",
        "host_network",
        "identity",
        "root",
        "undo",
        "view",
    )

    def __init__(
        self,
        document: dict[str, Any],
        view: Specification,
        *,
        identity: Identity,
        annotations: Annotations,
        bundle: str,
        root: SandboxRoot,
        host_network: bool,
        guest: Guest,
        dns: Dns,
        assigned: AssignedDevices,
        undo: ExitStack,
    ) -> None:
        self.document = document
        self.view = view
        self.identity = identity
        self.annotations = annotations
        self.bundle = bundle
        self.root = root
        self.host_network = host_network
        self.guest = guest
        self.dns = dns
        self.assigned = assigned
        self.undo = undo

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The mounts, to be changed in place."""
        return items(self.document, "mounts")

    @property
    def rootfs(self) -> str:
        """Absolute path of the container's root file system; "" when the host names none."""
        root = self.view.root
        return os.path.join(self.bundle, root.path) if root is not None and root.path else ""


def section(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return an object inside a document; one that is missing or null is made.

    Raises:
        InvalidJsonError: Something else is there.
    """
    current = document
    for key in keys:
        value = current.get(key)
        if value is None:
            value = current[key] = {}
        if not isinstance(value, dict):
            raise InvalidJsonError(f"OciSpecification: {'.'.join(keys)} is not an object")
        current = value
    return current


def items(document: dict[str, Any], *keys: str) -> list[dict[str, Any]]:
    """Return a list of objects inside a document; as :func:`section`, null entries are dropped."""
    parent = section(document, *keys[:-1])
    value = parent.get(keys[-1])
    if value is None:
        value = parent[keys[-1]] = []
    if not isinstance(value, list) or not all(isinstance(item, dict | None) for item in value):
        raise InvalidJsonError(f"OciSpecification: {'.'.join(keys)} is not a list of objects")
    value[:] = [item for item in value if item]
    return value
