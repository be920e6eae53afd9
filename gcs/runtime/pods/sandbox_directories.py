"""Making and removing the directories that the containers of a pod share (spec 4.3, 4.10)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from gcs.linux.mount import MS_BIND, MS_REC, MS_SHARED
from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.bundle import remove_tree
from gcs.runtime.pods.containment import SHARED_MODE
from gcs.runtime.pods.kind import Kind
from gcs.runtime.pods.sandbox_root import SandboxRoot
from gcs.storage.mounts import try_unmount, unmount_all_under
from gcs.storage.paths import discard_directory, is_inside, make_directories

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from gcs.runtime.pods.edit import Edit
    from gcs.runtime.pods.kind import Identity
    from gcs.storage.mounts import MountSystem

logger = logging.getLogger(__name__)

#: Prefix of a mount's source → the directory it stands for.
SANDBOX: Final = "sandbox://"
SANDBOX_TMP: Final = "sandbox-tmp://"
HUGEPAGES: Final = "hugepages://"
#: Where hosts of the second generation have their pods.
PODS_PREFIX: Final = "/run/gcs/pods"


def make_sandbox_directories(edit: Edit) -> None:
    """Make the directories of a sandbox, or those that the container asks for.

    A workload finds them made by its sandbox, and then nothing changes.

    Raises OSError naming the directory.
    """
    mounts = edit.guest.mounts
    root = SandboxRoot(_make_root(mounts, edit.root.path, edit.undo))
    all_of_them = edit.identity.kind is Kind.SANDBOX
    sources = [mount.source for mount in edit.view.mounts]
    wanted = [
        (path, filesystem)
        for path, prefix, filesystem in (
            (root.mounts, SANDBOX, ""),
            (root.tmpfs_mounts, SANDBOX_TMP, "tmpfs"),
            (root.hugepages, HUGEPAGES, ""),
        )
        if all_of_them or any(source.startswith(prefix) for source in sources)
    ]
    existing = set(mounts.mounts_under(root.path)) if wanted else ()
    for path, filesystem in wanted:
        if path not in existing:
            _make_shared(mounts, path, filesystem, edit.undo)
    wants_logs = edit.annotations.tee_log_path or edit.annotations.tee_log_directory_mount
    if all_of_them or wants_logs:
        make_directories(mounts, root.logs, SHARED_MODE, edit.undo)


def remove_sandbox_directories(
    identity: Identity, root: SandboxRoot, mounts: MountSystem
) -> list[str]:
    """Unmount what is mounted in the directories of a sandbox or of a standalone container.

    To be called when the container is deleted, before its bundle is removed: what is still mounted
    would keep the disk below busy.  A workload's directories belong to its pod and stay.  The root
    of a virtual pod is nobody's bundle, so it is removed here.

    Returns:
        What went wrong, for the log; the rest is done nevertheless (spec 4.10).
    """
    if identity.kind is Kind.WORKLOAD:
        return []
    failures = []
    root = SandboxRoot(os.path.realpath(root.path))
    mounted = mounts.mounts_under(root.path)
    for path in (root.mounts, root.tmpfs_mounts, root.hugepages):
        if not any(is_inside(place, path) for place in mounted):
            continue
        try:
            unmount_all_under(mounts, path)
        except GcsError as error:
            failures.append(str(error))
    if identity.is_virtual_sandbox:
        failures += _remove_virtual_root(root.path)
    return failures


def remove_pod_directory(bundle: str, prefix: str = PODS_PREFIX) -> None:
    """Remove the directory of a pod, which has held its containers' bundles (spec 4.10).

    To be called when its last container is gone: that need not be the sandbox.  A directory that
    isn't empty stays, with a line in the log.

    Args:
        bundle: Bundle directory of the pod's sandbox.
        prefix: Pods have their directories below this.
    """
    parent = os.path.dirname(bundle)
    if parent != prefix and is_inside(parent, prefix):
        discard_directory(parent)


def _make_root(mounts: MountSystem, path: str, undo: ExitStack) -> str:
    """Make the root directory; return its path, free of symbolic links."""
    make_directories(mounts, path, 0o755, undo)
    return os.path.realpath(path)


def _make_shared(mounts: MountSystem, path: str, filesystem: str, undo: ExitStack) -> None:
    """Make a directory a mount point whose mounts reach those who have it mounted already."""
    make_directories(mounts, path, 0o755, undo)
    if filesystem:
        mounts.mount(filesystem, path, filesystem)
    else:
        mounts.mount(path, path, "", MS_BIND)
    undo.callback(try_unmount, mounts, path)
    mounts.mount("", path, "", MS_SHARED | MS_REC)


def _remove_virtual_root(path: str) -> Iterable[str]:
    try:
        left = remove_tree(path)
    except OSError as error:
        return [error_text(error)]
    if not left:
        # Its parent, `virtual-pods`, is for all of them: the last one takes it along.
        parent = os.path.dirname(path)
        if os.path.isdir(parent) and not os.listdir(parent):
            discard_directory(parent)
    return [f"{place} is still mounted" for place in left]
