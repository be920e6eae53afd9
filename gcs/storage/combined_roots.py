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
    from collections.abc import Callable, Sequence

    from gcs.protocol.settings import CombinedLayers
    from gcs.storage.mounts import MountSystem


class CombinedRoot(msgspec.Struct, frozen=True):
    """A root file system that is mounted."""

    settings: CombinedLayers
    scratch: str
    """Checked scratch path; "" for a read-only root."""
    places: tuple[str, ...]
    """Where the layers and the scratch are, free of symbolic links."""

    def uses(self, path: str) -> bool:
        """Whether a layer, or the scratch, is at a path or below it."""
        return any(is_inside(place, path) for place in self.places)


def combined_root(settings: CombinedLayers, layers: Sequence[str], scratch: str) -> CombinedRoot:
    """Return what to remember of a root file system, while its layers are there."""
    places = [os.path.realpath(place) for place in (*layers, scratch) if place]
    return CombinedRoot(settings, scratch, tuple(places))


class CombinedRoots:
    """The root file systems of the VM, shared by those who mount them and by those whose disks they
    are made of."""

    def __init__(self) -> None:
        #: Root path, free of symbolic links → what is mounted there.
        self.mounted: dict[str, CombinedRoot] = {}

    def find(self, system: MountSystem, matches: Callable[[str, CombinedRoot], bool]) -> str | None:
        """A root file system that matches and is still mounted, or ``None``."""
        for root, combined in list(self.mounted.items()):
            # To look at the mounts takes long where there are many: only where it matters.
            if matches(root, combined) and is_mounted(system, root):
                return root
        return None

    def require_unused(self, system: MountSystem, path: str, what: str) -> None:
        """Raise GcsError when a root file system is made of what is mounted at a path.

        path: free of symbolic links.
        what: is mounted there, for the message.
        """
        root = self.find(system, lambda root, combined: root != path and combined.uses(path))
        if root is not None:
            raise GcsError(
                f"unmount {path} ({what}): in use by the root file system {root}; remove that first"
            )
