"""Root file systems that are combined from layers, and which disks they keep in use.

An overlay holds on to what it is made of without the kernel's telling: the mounts of its layers and
its scratch let themselves be unmounted, and are in use all the same.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from gcs.protocol.errors import GcsError
from gcs.storage.mounts import is_mounted
from gcs.storage.paths import is_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gcs.protocol.settings import CombinedLayers
    from gcs.storage.mounts import MountSystem


class CombinedRoot(msgspec.Struct, frozen=True):
    """A root file system that is mounted."""

    settings: CombinedLayers
    layers: tuple[str, ...]
    """Checked paths of the layers."""
    scratch: str
    """Checked scratch path; "" for a read-only root."""

    def uses(self, path: str) -> bool:
        """Whether a layer, or the scratch, is at a path or below it."""
        places = filter(None, (*self.layers, self.scratch))
        return any(is_inside(os.path.realpath(place), path) for place in places)


class CombinedRoots:
    """The root file systems of the VM, shared by those who mount them and by those whose disks they
    are made of."""

    def __init__(self) -> None:
        #: Root path, free of symbolic links → what is mounted there.
        self.mounted: dict[str, CombinedRoot] = {}

    def others(self, system: MountSystem, root: str) -> Iterator[tuple[str, CombinedRoot]]:
        """The other root file systems that are still mounted."""
        for other, combined in list(self.mounted.items()):
            if other != root and is_mounted(system, other):
                yield other, combined

    def require_unused(self, system: MountSystem, path: str, what: str) -> None:
        """Raise GcsError when a root file system is made of what is mounted at a path.

        path: free of symbolic links.
        what: is mounted there, for the message.
        """
        for root, combined in self.others(system, path):
            if combined.uses(path):
                raise GcsError(
                    f"unmount {path} ({what}): in use by the root file system {root}; "
                    "remove that first"
                )
