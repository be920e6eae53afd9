"""Limits that annotations set: core dumps, shared memory (spec 4.5, no. 4 and 5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from gcs.runtime.pods.edit import items

if TYPE_CHECKING:
    from gcs.runtime.pods.edit import Edit

SHM: Final = "/dev/shm"
_CORE: Final = "RLIMIT_CORE"


def edit_core_limit(edit: Edit) -> None:
    """Set RLIMIT_CORE to what the annotation says, in place of another limit."""
    limit = edit.annotations.core_limit
    if limit is None:
        return
    rlimits = items(edit.document, "process", "rlimits")
    rlimits[:] = [rlimit for rlimit in rlimits if rlimit.get("type") != _CORE]
    rlimits.append({"type": _CORE, "soft": limit.soft, "hard": limit.hard})


def edit_shared_memory(edit: Edit) -> None:
    """Give /dev/shm the size that the annotation says, in place of another mount."""
    size = edit.annotations.shm_size
    if size is None:
        return
    mounts = edit.mounts
    mounts[:] = [mount for mount in mounts if not _is_shm(mount)]
    mounts.append(
        {
            "destination": SHM,
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", f"size={size}k"],
        }
    )


def merge_rlimits(own: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return limits, and those of others for what they don't limit."""
    types = {rlimit.get("type") for rlimit in own}
    return [*own, *(rlimit for rlimit in others if rlimit.get("type") not in types)]


def _is_shm(mount: dict[str, Any]) -> bool:
    return os.path.normpath(mount.get("destination") or "/") == SHM
