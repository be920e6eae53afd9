"""Resource `CombinedLayers`: the root file system of a container, from its layers (spec 3.6)."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gcs.linux.mount import MS_BIND
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.settings import CombinedLayers
from gcs.protocol.trace import span
from gcs.storage.combined_roots import CombinedRoots, combined_root
from gcs.storage.driver import PathLocks, ResourceDriver, in_thread
from gcs.storage.mounts import (
    KernelMounts,
    is_mounted,
    require_unmounted,
    try_unmount,
    unmount_path,
)
from gcs.storage.overlay import MAX_LAYERS
from gcs.storage.paths import (
    checked_mount_point,
    checked_path,
    checked_target,
    discard_directory,
    is_inside,
    make_directories,
)

if TYPE_CHECKING:
    from gcs.storage.mounts import MountSystem


class CombinedLayersDriver(ResourceDriver[CombinedLayers]):
    """Mounts overlays.

    system: mounts them.
    roots: remembers them, for this driver and those of disks.
    """

    def __init__(
        self, system: MountSystem | None = None, roots: CombinedRoots | None = None
    ) -> None:
        self._system: MountSystem = KernelMounts() if system is None else system
        self._roots = CombinedRoots() if roots is None else roots
        self._locks = PathLocks()

    async def add(self, settings: CombinedLayers) -> None:
        """Lay the layers over each other at the container's root path.

        With a scratch path what is written goes to `upper` below it.  When the scratch is outside
        of the bundle (the parent of the root path), the scratch's `bundle` directory is mounted on
        the bundle first; `unmount_bundle` undoes that when the container is deleted.  The same
        settings a second time change nothing.

        Raises GcsError when a layer is missing, when the root path is taken or the scratch in use,
        and when the kernel refuses; then nothing is left behind.
        """
        root = checked_mount_point(settings.container_root_path, "ContainerRootPath")
        with span("overlay::MountLayer", target=root, scratchPath=settings.scratch_path):
            async with self._locks.of(root):
                await in_thread(self._add, root, settings)

    async def remove(self, settings: CombinedLayers) -> None:
        """Unmount the root file system; one that is not there is fine.

        What was written stays in the scratch, and a bundle that a container has stays mounted
        (spec 3.6).  One that is empty belongs to no container: its creation was never asked for, or
        has failed, so nobody would ever unmount it.
        Raises GcsError when it is in use.
        """
        root = checked_target(settings.container_root_path, "ContainerRootPath")
        async with self._locks.of(root):
            await in_thread(self._remove, root)
            self._roots.mounted.pop(root, None)

    def _remove(self, root: str) -> None:
        unmount_path(self._system, root)
        combined = self._roots.mounted.get(root)
        if combined is None or not bundle_is_mounted(root, combined.scratch):
            return
        bundle = os.path.dirname(root)
        if is_mounted(self._system, bundle) and _is_abandoned(bundle, os.path.basename(root)):
            unmount_path(self._system, bundle)
            discard_directory(f"{combined.scratch}/bundle")

    def _add(self, root: str, settings: CombinedLayers) -> None:
        known = self._roots.mounted.get(root)
        if known is not None and known.settings == settings and is_mounted(self._system, root):
            return
        require_unmounted(self._system, root)
        layers = _checked_layers(root, settings)
        scratch = settings.scratch_path and checked_path(settings.scratch_path, "ScratchPath")
        if scratch:
            self._require_unused(scratch, root)
        with ExitStack() as undo:
            try:
                self._mount(root, layers, scratch, undo)
            except OSError as error:
                text = f"combine {len(layers)} layers at {root}: {error_text(error)}"
                raise GcsError(text) from error
            self._roots.mounted[root] = combined_root(settings, layers, scratch)
            undo.pop_all()

    def _mount(self, root: str, layers: list[str], scratch: str, undo: ExitStack) -> None:
        system = self._system
        upper = work = ""
        if scratch:
            if bundle_is_mounted(root, scratch):
                self._mount_bundle(os.path.dirname(root), scratch, undo)
            upper = f"{scratch}/upper"
            work = f"{scratch}/work"
            make_directories(system, upper, 0o755, undo)
            fresh_work = not os.path.lexists(work)
            make_directories(system, work, 0o755, undo)
            if fresh_work:
                # An overlay that fails late leaves its own directories in the work directory.
                for name in ("work", "index"):
                    undo.callback(_discard_if_there, f"{work}/{name}")
        make_directories(system, root, 0o755, undo)
        paths = {"lowerdir": ":".join(layers), "upperdirPath": upper, "workdirPath": work}
        with span("overlay::Mount", **paths, target=root, readonly=not scratch):
            system.mount_overlay(root, layers, upper, work)

    def _mount_bundle(self, bundle: str, scratch: str, undo: ExitStack) -> None:
        source = f"{scratch}/bundle"
        make_directories(self._system, source, 0o755, undo)
        make_directories(self._system, bundle, 0o755, undo)
        if os.path.samefile(source, bundle):
            return  # still mounted since a former Add; it goes when the container is deleted
        self._system.mount(source, bundle, "", MS_BIND)
        undo.callback(try_unmount, self._system, bundle)

    def _require_unused(self, scratch: str, root: str) -> None:
        """Raise GcsError when another root writes to the scratch: the kernel would not notice."""
        other = self._roots.find(
            self._system, lambda other, combined: other != root and combined.scratch == scratch
        )
        if other is not None:
            raise GcsError(f"ScratchPath {scratch} is in use by the root file system {other}")


def bundle_is_mounted(container_root_path: str, scratch_path: str) -> bool:
    """Whether `add` mounts a directory of the scratch on the bundle (spec 3.6)."""
    bundle = os.path.dirname(container_root_path.rstrip("/"))
    return bool(scratch_path) and not is_inside(scratch_path, bundle)


async def unmount_bundle(bundle: str, system: MountSystem | None = None) -> None:
    """Undo the mount on a bundle that `add` made, and remove the then empty directory.

    Raises GcsError when it is in use.
    """
    path = checked_target(bundle, "bundle")
    await in_thread(unmount_path, KernelMounts() if system is None else system, path)


def _checked_layers(root: str, settings: CombinedLayers) -> list[str]:
    layers = [checked_path(layer.path, "layer Path") for layer in settings.layers]
    if not 0 < len(layers) <= MAX_LAYERS:
        raise GcsError(f"combine {len(layers)} layers at {root}: 1 to {MAX_LAYERS} are possible")
    for layer in layers:
        try:
            mode = os.stat(layer).st_mode
        except OSError as error:
            raise GcsError(f"combine layers at {root}: layer {error_text(error)}") from error
        if not stat.S_ISDIR(mode):
            raise GcsError(f"combine layers at {root}: layer {layer} is not a directory")
    return layers


def _is_abandoned(bundle: str, root_name: str) -> bool:
    """Whether a bundle holds nothing, but for the place of a root that could not be removed."""
    try:
        return set(os.listdir(bundle)) <= {root_name}
    except OSError:
        return True  # its disk was pulled


def _discard_if_there(path: str) -> None:
    if os.path.lexists(path):
        discard_directory(path)
