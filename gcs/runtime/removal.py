"""Removal of a container's directories (spec 4.10)."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from gcs.linux.mount import mounts_under
from gcs.runtime.bundle import remove_tree
from gcs.runtime.pods.sandbox_directories import remove_sandbox_directories
from gcs.storage.combined_layers import bundle_is_mounted, unmount_bundle
from gcs.storage.mounts import KernelMounts

if TYPE_CHECKING:
    from gcs.protocol.oci import Specification
    from gcs.runtime.pods.plan import ContainerPlan

logger = logging.getLogger(__name__)


async def remove_shared_directories(plan: ContainerPlan) -> None:
    """Unmount what a sandbox, or a container of its own, has made for its pod.

    To be called when its processes have ended; failures are logged.
    """
    failures = await asyncio.to_thread(
        remove_sandbox_directories, plan.identity, plan.root, KernelMounts()
    )
    for failure in failures:
        logger.warning("container %s: %s", plan.identity.container_id, failure)


async def remove_directories(plan: ContainerPlan, view: Specification, scratch: str) -> None:
    """Remove the temporary state and the bundle of a container, except what is mounted there.

    Args:
        plan: The container.
        view: Its specification.
        scratch: Directory for its temporary state, or "".

    Raises:
        GcsError: The bundle is mounted and in use.
        OSError: Something can't be removed.
    """
    root = "" if view.root is None else os.path.join(plan.bundle, view.root.path)
    if root and bundle_is_mounted(root, scratch):
        await unmount_bundle(plan.bundle)
    mounted = await asyncio.to_thread(_remove_trees, scratch, plan.bundle)
    if mounted:
        logger.warning(
            "container %s: left in place, since still mounted: %s",
            plan.identity.container_id,
            ", ".join(mounted),
        )


def _remove_trees(*paths: str) -> list[str]:
    mounted = []
    for path in filter(None, paths):
        if mounts_under(os.path.realpath(path)) == [os.path.realpath(path)]:
            # The v1 shim mounts a scratch disk here, and may unmount it only after this.  With a
            # root file system still mounted in it, this is an error, as in the reference.
            mounted.append(path)
        else:
            mounted += remove_tree(path)
    return mounted
