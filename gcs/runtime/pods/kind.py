"""What kind of container a request asks for, and which pod it belongs to (spec 4.2)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.runtime.spec import SANDBOX_ID, check_container_id, container_kind

if TYPE_CHECKING:
    from gcs.protocol.oci import Specification
    from gcs.runtime.pods.annotations import Annotations

PODS_CGROUP: Final = "/pods"


class Kind(enum.Enum):
    """Kinds of containers; the values are those of the annotation."""

    SANDBOX = "sandbox"
    WORKLOAD = "container"
    STANDALONE = ""


class Identity(msgspec.Struct, frozen=True):
    """Who a container is.

    Attributes:
        container_id: Its id.
        kind: What it is.
        sandbox_id: Id of its pod; the own id of a container that belongs to none.
        virtual_pod_id: The same id when the pod is a virtual one, else "".
    """

    container_id: str
    kind: Kind
    sandbox_id: str
    virtual_pod_id: str = ""

    @property
    def pod_cgroup(self) -> str:
        """Control group of the pod, or of the container that belongs to none."""
        return f"{PODS_CGROUP}/{self.sandbox_id}"

    @property
    def cgroup(self) -> str:
        """Control group of the container (spec 4.7)."""
        if self.kind is Kind.STANDALONE:
            return self.pod_cgroup
        return f"{self.pod_cgroup}/{self.container_id}"

    @property
    def is_virtual_sandbox(self) -> bool:
        """Whether it is the sandbox of a virtual pod."""
        return bool(self.virtual_pod_id) and self.kind is Kind.SANDBOX


def identify(container_id: str, view: Specification, annotations: Annotations) -> Identity:
    """Find out who a container is.

    Args:
        container_id: Checked already.
        view: Its specification.
        annotations: The values of its annotations.

    Raises:
        GcsError: Unknown container type, or a workload that names no pod.
        InvalidArgumentError: The id of the pod can't be one.
    """
    kind = Kind(container_kind(view))
    virtual = annotations.virtual_pod_id
    if virtual:
        _check_pod_id(virtual, "virtual pod id")
        if container_id == virtual:
            kind = Kind.SANDBOX
    if kind is Kind.STANDALONE:
        return Identity(container_id, kind, container_id)
    sandbox_id = virtual or (annotations.sandbox_id if kind is Kind.WORKLOAD else container_id)
    if not sandbox_id:
        raise GcsError(f"workload container {container_id} names no pod ({SANDBOX_ID})")
    return Identity(container_id, kind, sandbox_id, virtual)


def _check_pod_id(pod_id: str, what: str) -> None:
    """Check an id that becomes part of paths."""
    try:
        check_container_id(pod_id)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{what}: {error}") from None
    if ".." in pod_id:
        raise InvalidArgumentError(f'{what} {pod_id!r} contains ".."')
