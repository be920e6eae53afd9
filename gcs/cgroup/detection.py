"""Which version of control groups is in use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from gcs.cgroup.files import read_text
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from gcs.cgroup.cgroup import CgroupManager

ROOT: Final = "/sys/fs/cgroup"


def detect(root: str = ROOT) -> CgroupManager:
    """Return the manager of the hierarchies that are mounted.

    What is mounted at the root decides: cgroup v2, or a directory of mount points, which may
    include one of v2 named ``unified`` (hybrid).  In the hybrid form the version is that which
    has the memory controller, because limits and statistics have to be where it is.  The reference
    takes v2 there always, and then finds no controller (spec 4.7).

    Args:
        root: Where they are mounted.

    Raises:
        GcsError: Nothing is mounted there.
    """
    unified = f"{root}/unified"
    if os.path.exists(f"{root}/cgroup.controllers"):
        return _v2(root)
    if "memory" in read_text(f"{unified}/cgroup.controllers").split():
        return _v2(unified)
    from gcs.cgroup.v1 import V1Manager

    manager = V1Manager(root)
    if not manager.hierarchies:
        raise GcsError(f"no control groups are mounted at {root}, neither of version 2 nor 1")
    return manager


def _v2(root: str) -> CgroupManager:
    from gcs.cgroup.v2 import V2Manager

    return V2Manager(root)
