"""What a container is and needs, found out before anything is made (spec 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gcs.runtime.pods.annotations import Annotations, read_annotations
from gcs.runtime.pods.kind import Identity, Kind, identify
from gcs.runtime.pods.sandbox_root import SandboxRoot

if TYPE_CHECKING:
    from gcs.protocol.oci import Specification
    from gcs.runtime.pods.pod import Pod, Pods


class NetworkNeeds(msgspec.Struct, frozen=True):
    """The network namespace of a sandbox or standalone container.

    Attributes:
        namespace_id: Its id in lower case; "" when the host names none.
        create: Make it when it doesn't exist yet.
        required: Without it the container can't be made.
    """

    namespace_id: str
    create: bool
    required: bool


class ContainerPlan(msgspec.Struct, frozen=True):
    """A container to be made.

    Attributes:
        identity: Who it is.
        annotations: Values of its annotations.
        bundle: Its directory.
        root: Root directory of its pod; its own directory when it belongs to none.
        pod: Its pod; ``None`` when it belongs to none.
        host_network: Whether it uses the network of the VM; a workload does as its sandbox.
        network: Its network namespace; ``None`` for a workload, whose specification has a path.
    """

    identity: Identity
    annotations: Annotations
    bundle: str
    root: SandboxRoot
    pod: Pod | None
    host_network: bool
    network: NetworkNeeds | None


def plan_container(
    container_id: str, view: Specification, bundle: str, pods: Pods
) -> ContainerPlan:
    """Find out what a container is, and enter it into its pod.

    Whoever calls this calls ``pods.leave(plan.identity, plan.pod)`` when the container isn't made,
    or when it is deleted.

    Args:
        container_id: Checked already, and reserved.
        view: Its specification.
        bundle: Its directory, checked already.
        pods: All pods of the VM.

    Raises:
        GcsError: Unknown type of container, the pod of a workload doesn't exist, that of a sandbox
            does, or an annotation can't be read; nothing is entered then.
    """
    annotations = read_annotations(view.annotations)
    identity = identify(container_id, view, annotations)
    pod = pods.join(identity, bundle, host_network=annotations.host_network)
    return ContainerPlan(
        identity=identity,
        annotations=annotations,
        bundle=bundle,
        root=SandboxRoot(bundle) if pod is None else pod.root,
        pod=pod,
        host_network=annotations.host_network if pod is None else pod.host_network,
        network=_network_needs(identity, view, annotations),
    )


def _network_needs(
    identity: Identity, view: Specification, annotations: Annotations
) -> NetworkNeeds | None:
    network = None if view.windows is None else view.windows.network
    namespace_id = "" if network is None else network.network_namespace.lower()
    match identity.kind:
        case Kind.WORKLOAD:
            return None
        case Kind.STANDALONE:
            return NetworkNeeds(namespace_id, create=bool(namespace_id), required=False)
        case Kind.SANDBOX:
            skip = annotations.skip_pod_networking
            create = bool(namespace_id) and (skip or identity.is_virtual_sandbox)
            return NetworkNeeds(namespace_id, create=create, required=not skip)
