"""Mounts whose source or destination a host writes with a prefix (spec 4.5, no. 2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.pods.containment import components, make_beneath
from gcs.runtime.pods.devices import DeviceNode, allow_device
from gcs.runtime.pods.sandbox_directories import HUGEPAGES, SANDBOX, SANDBOX_TMP
from gcs.storage.mounts import is_mounted, try_unmount

if TYPE_CHECKING:
    from gcs.runtime.pods.edit import Edit

UVM: Final = "uvm://"
BLOCK_DEVICE: Final = "blockdev://"
_SIZE_SUFFIXES: Final = frozenset("KMG")


def edit_mount_sources(edit: Edit) -> None:
    """Replace each source that has a prefix by a path of the VM, and make what is missing.

    Raises:
        GcsError: The path leads out of the directory that the prefix stands for, doesn't exist,
            or can't be made.
    """
    for mount in edit.mounts:
        source = mount.get("source", "")
        if source.startswith(SANDBOX):
            mount["source"] = _shared(edit, edit.root.mounts, source, SANDBOX)
        elif source.startswith(SANDBOX_TMP):
            mount["source"] = _shared(edit, edit.root.tmpfs_mounts, source, SANDBOX_TMP)
        elif source.startswith(HUGEPAGES):
            mount["source"] = _hugepages(edit, source)
        elif source.startswith(UVM):
            mount["source"] = _of_vm(source)


def edit_block_devices(edit: Edit) -> None:
    """Allow the container each disk that is mounted as a block device, and name its destination.

    Raises:
        GcsError: The source is no device, or the destination no absolute path.
    """
    for mount in edit.mounts:
        destination = mount.get("destination", "")
        if destination.startswith(BLOCK_DEVICE):
            place = destination.removeprefix(BLOCK_DEVICE)
            if not place.startswith("/"):
                raise GcsError(f"mount destination {destination!r} names no absolute path")
            allow_device(edit.document, _block_device(mount), _access(mount))
            mount["destination"] = place


def _shared(edit: Edit, directory: str, source: str, prefix: str) -> str:
    return make_beneath(directory, source.removeprefix(prefix), edit.undo, "mount source")


def _hugepages(edit: Edit, source: str) -> str:
    """Mount a file system of huge pages, unless there is one, and return its path.

    A directory that is there says nothing: its mount may have failed before (spec 11.3, no. 44).
    """
    size, *place = components(source.removeprefix(HUGEPAGES), "mount source") or [""]
    if not place or not size[:-1].isdecimal() or size[-1] not in _SIZE_SUFFIXES:
        raise GcsError(f"mount source {source!r}: expected {HUGEPAGES}<size>M/<place>")
    below = "/".join((size, *place))
    path = make_beneath(edit.root.hugepages, below, edit.undo, "mount source")
    mounts = edit.guest.mounts
    if not is_mounted(mounts, path):
        try:
            mounts.mount("none", path, "hugetlbfs", 0, f"pagesize={size}")
        except OSError as error:
            raise GcsError(f"mount source {source!r}: {error_text(error)}") from error
        edit.undo.callback(try_unmount, mounts, path)
    return path


def _of_vm(source: str) -> str:
    path = source.removeprefix(UVM)
    if not path.startswith("/") or "\0" in path:
        raise GcsError(f"mount source {source!r} names no absolute path")
    try:
        os.stat(path)
    except OSError as error:
        raise GcsError(f"mount source {source!r}: {error_text(error)}") from error
    return path


def _block_device(mount: dict[str, Any]) -> DeviceNode:
    """Return the device of a mount, whose source is the link that MappedVirtualDisk has made."""
    source = mount.get("source", "")
    try:
        node = DeviceNode.at(os.path.realpath(source, strict=True))
    except (OSError, ValueError) as error:
        raise GcsError(f"block device {source!r}: {error_text(error)}") from error
    if node is None:
        raise GcsError(f"block device {source!r} is not a device")
    return node


def _access(mount: dict[str, Any]) -> str:
    return "r" if "ro" in mount.get("options", []) else "rwm"
