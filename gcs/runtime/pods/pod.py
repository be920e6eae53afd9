"""The pods of the VM and the containers in them (spec 4.1, 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError, SystemAlreadyExistsError
from gcs.runtime.pods.kind import PODS_CGROUP, Kind
from gcs.runtime.pods.sandbox_root import SandboxRoot, SandboxRoots

if TYPE_CHECKING:
    from gcs.runtime.pods.kind import Identity


class Pod:
    """A pod.

    Attributes:
        sandbox_id: Its id.
        root: Its root directory.
        bundle: Bundle directory of its sandbox.
        host_network: Whether it uses the network of the VM.
        members: Ids of its containers, the sandbox among them.
        closed: Whether its sandbox is gone; what is left of it are members.
    """

    __slots__ = ("bundle", "closed", "host_network", "members", "root", "sandbox_id")

    def __init__(
        self, sandbox_id: str, root: SandboxRoot, bundle: str, *, host_network: bool
    ) -> None:
        self.sandbox_id = sandbox_id
        self.root = root
        self.bundle = bundle
        self.host_network = host_network
        self.members: set[str] = set()
        self.closed = False

    @property
    def cgroup(self) -> str:
        """Its control group, below the root of the hierarchies."""
        return f"{PODS_CGROUP}/{self.sandbox_id}"


class Pods:
    """All pods of the VM; to be used on one thread.

    Args:
        roots: Their root directories.
    """

    __slots__ = ("_pods", "roots")

    def __init__(self, roots: SandboxRoots | None = None) -> None:
        self.roots = SandboxRoots() if roots is None else roots
        self._pods: dict[str, Pod] = {}

    def find(self, sandbox_id: str) -> Pod | None:
        """Return the pod with this id that has a sandbox."""
        return self._pods.get(sandbox_id)

    def join(self, identity: Identity, bundle: str, *, host_network: bool) -> Pod | None:
        """Make the pod of a sandbox, or add a workload to its pod.

        Args:
            identity: The container.
            bundle: Its bundle directory.
            host_network: What a sandbox's annotation says.

        Returns:
            The pod; ``None`` for a container that belongs to none.

        Raises:
            GcsError: The pod exists already, or doesn't exist.
            SystemAlreadyExistsError: The container is in the pod already.
        """
        sandbox_id = identity.sandbox_id
        pod = self._pods.get(sandbox_id)
        match identity.kind:
            case Kind.STANDALONE:
                return None
            case Kind.SANDBOX:
                if pod is not None:
                    raise GcsError(f"pod {sandbox_id} already exists")
                root = self.roots.register(sandbox_id, bundle, identity.virtual_pod_id)
                pod = Pod(sandbox_id, root, bundle, host_network=host_network)
                self._pods[sandbox_id] = pod
            case Kind.WORKLOAD:
                container_id = identity.container_id
                if pod is None:
                    raise GcsError(
                        f"pod {sandbox_id} does not exist for workload container {container_id}"
                    )
                if container_id in pod.members:
                    raise SystemAlreadyExistsError(
                        f"container {container_id} is in pod {sandbox_id} already"
                    )
        pod.members.add(identity.container_id)
        return pod

    def leave(self, identity: Identity, pod: Pod | None) -> Pod | None:
        """Take a container out of its pod; the pod of a sandbox is forgotten.

        Returns:
            The pod when nothing is left of it, so that its control group can go: neither its
            sandbox nor a member, nor a new pod with the same id.
        """
        if pod is None:
            return None
        pod.members.discard(identity.container_id)
        if identity.kind is Kind.SANDBOX:
            pod.closed = True
            if self._pods.get(pod.sandbox_id) is pod:
                del self._pods[pod.sandbox_id]
                self.roots.unregister(pod.sandbox_id)
        finished = pod.closed and not pod.members and pod.sandbox_id not in self._pods
        return pod if finished else None
