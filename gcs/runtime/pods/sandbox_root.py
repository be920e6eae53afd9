"""The root directory of a pod: where it is, and what is where in it (spec 4.3)."""

from __future__ import annotations

import logging
import os
from typing import Final

import msgspec

logger = logging.getLogger(__name__)

#: Where hosts of the first generation have their containers.
LEGACY_PREFIX: Final = "/run/gcs/c"


class SandboxRoot(msgspec.Struct, frozen=True):
    """Root directory of a pod, or of a container that belongs to none.

    Attributes:
        path: Absolute path.
    """

    path: str

    @property
    def mounts(self) -> str:
        """What ``sandbox://`` stands for: directories that the containers of a pod share."""
        return os.path.join(self.path, "sandboxMounts")

    @property
    def tmpfs_mounts(self) -> str:
        """What ``sandbox-tmp://`` stands for: the same, in memory."""
        return os.path.join(self.path, "sandboxTmpfsMounts")

    @property
    def hugepages(self) -> str:
        """What ``hugepages://`` stands for."""
        return os.path.join(self.path, "hugepages")

    @property
    def logs(self) -> str:
        """Copies of the containers' output."""
        return os.path.join(self.path, "logs")

    def file(self, name: str) -> str:
        """The path of ``hostname``, ``hosts`` or ``resolv.conf``."""
        return os.path.join(self.path, name)


class SandboxRoots:
    """Sandbox id → root directory.

    Args:
        legacy_prefix: Where the roots of pods that nobody registered are expected.
    """

    __slots__ = ("_legacy_prefix", "_roots")

    def __init__(self, legacy_prefix: str = LEGACY_PREFIX) -> None:
        self._legacy_prefix = legacy_prefix
        self._roots: dict[str, SandboxRoot] = {}

    def register(self, sandbox_id: str, bundle: str, virtual_pod_id: str = "") -> SandboxRoot:
        """Note the root of a pod, and return it.

        Args:
            sandbox_id: Id of the pod.
            bundle: Bundle directory of its sandbox.
            virtual_pod_id: Checked id of a virtual pod, or "".
        """
        path = bundle
        if virtual_pod_id:
            path = os.path.join(os.path.dirname(bundle), "virtual-pods", virtual_pod_id)
        root = self._roots[sandbox_id] = SandboxRoot(path)
        return root

    def resolve(self, sandbox_id: str) -> SandboxRoot:
        """Return the root of a pod; of an unknown one, the place where it would have been."""
        root = self._roots.get(sandbox_id)
        if root is None:
            root = SandboxRoot(os.path.join(self._legacy_prefix, sandbox_id))
            logger.warning("root of pod %s is not known; using %s", sandbox_id, root.path)
        return root

    def unregister(self, sandbox_id: str) -> None:
        """Forget the root of a pod."""
        self._roots.pop(sandbox_id, None)
