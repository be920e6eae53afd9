"""Device nodes of the VM that a container gets (spec 4.5, no. 4 and 8)."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.pods.edit import items
from gcs.runtime.pods.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.runtime.pods.edit import Edit

logger = logging.getLogger(__name__)

#: Directories of /dev that a container has its own of, as runc leaves them out.
_SKIPPED: Final = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))
_ALL_ACCESS: Final = "rwm"


class DeviceNode(NamedTuple):
    """A device node.

    Attributes:
        path: Where it is.
        type: ``c`` or ``b``.
        major: Device number, first half.
        minor: Device number, second half.
        uid: Its owner.
        gid: Its group.
    """

    path: str
    type: str
    major: int
    minor: int
    uid: int
    gid: int

    @classmethod
    def at(cls, path: str) -> DeviceNode | None:
        """Return the node at a path, ``None`` when something else is there.

        Raises OSError.
        """
        status = os.lstat(path)
        if not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode):
            return None
        kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return cls(path, kind, major, minor, status.st_uid, status.st_gid)


def all_devices(directory: str) -> Iterator[DeviceNode]:
    """Go through all device nodes below /dev but those of terminals.

    What vanishes meanwhile is left out; symbolic links are.
    Raises OSError when the directory itself can't be read.
    """
    with os.scandir(directory) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED:
                yield from all_devices(entry.path)
        elif entry.name != "console":
            try:
                node = DeviceNode.at(entry.path)
            except FileNotFoundError:
                continue
            if node is not None and (node.major, node.minor) != (0, 0):
                yield node


def add_device(document: dict[str, Any], node: DeviceNode, *, allow: bool) -> None:
    """Add a device, in place of another one at the same path.

    Args:
        document: The specification; changed in place.
        node: The device.
        allow: Whether its control group lets the container use it.
    """
    devices = items(document, "linux", "devices")
    entry = {
        "path": node.path,
        "type": node.type,
        "major": node.major,
        "minor": node.minor,
        "uid": node.uid,
        "gid": node.gid,
    }
    for index, device in enumerate(devices):
        if device.get("path") == node.path:
            devices[index] = entry
            break
    else:
        devices.append(entry)
    if allow:
        allow_device(document, node, _ALL_ACCESS)


def allow_device(document: dict[str, Any], node: DeviceNode, access: str) -> None:
    """Let the container use a device; access: of the letters ``rwm``."""
    items(document, "linux", "resources", "devices").append(
        {
            "allow": True,
            "type": node.type,
            "major": node.major,
            "minor": node.minor,
            "access": access,
        }
    )


def edit_devices(edit: Edit) -> None:
    """Give a privileged container all devices, another one those it lists, as the VM has them.

    Raises:
        GcsError: A listed device of a workload doesn't exist, or is none.
    """
    if edit.annotations.privileged:
        for node in all_devices(edit.guest.device_directory):
            add_device(edit.document, node, allow=False)
        rules = items(edit.document, "linux", "resources", "devices")
        rules[:] = [{"allow": True, "access": _ALL_ACCESS}]
        return
    if edit.view.linux is None or not edit.view.linux.devices:
        return
    devices = items(edit.document, "linux", "devices")
    listed = list(devices)
    devices.clear()
    for device in listed:
        _add_listed(edit, device)


def edit_assigned_devices(edit: Edit) -> None:
    """Give the container the nodes of the PCI devices that the host assigned to it."""
    for node in edit.assigned.nodes:
        add_device(edit.document, node, allow=True)


def _add_listed(edit: Edit, device: dict[str, Any]) -> None:
    path = device.get("path")
    if not isinstance(path, str) or not path or "\0" in path:
        raise GcsError(f"device {str(path)[:100]!r} of the specification has no path")
    try:
        node = DeviceNode.at(path)
    except FileNotFoundError as error:
        # The reference reads the nodes of workloads only; others are made from these numbers.
        if edit.identity.kind is not Kind.WORKLOAD and "major" in device:
            items(edit.document, "linux", "devices").append(device)
            return
        raise GcsError(f"device: {error_text(error)}") from error
    except OSError as error:
        raise GcsError(f"device: {error_text(error)}") from error
    if node is not None and (node.major, node.minor) != (0, 0):
        add_device(edit.document, node, allow=True)
    elif os.path.islink(path):
        logger.warning("device %s is a symbolic link: left out", path)
    else:
        raise GcsError(f"device {path} of the specification is not a device")
