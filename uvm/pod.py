"""Pods: a sandbox, and workload containers that share its namespaces and its scratch disk.

As CRI and the shims make them (spec 2.4 to 2.6, 2.8).
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from uvm.container import Container, ContainerPlace, ScsiAddress, new_container_id
from uvm.errors import UvmError
from uvm.guest import Guest
from uvm.network.adapter import Adapter
from uvm.network.namespace import NetworkNamespace
from uvm.spec import ContainerOptions, ProcessOptions, container_document

#: Which shim's paths and order of removal: ``/run/gcs/c/<id>``, or ``/run/gcs/pods/<pod>/<id>``.
Layout = Literal["v1", "v2"]

CONTAINER_TYPE: Final = "io.kubernetes.cri.container-type"
SANDBOX_ID: Final = "io.kubernetes.cri.sandbox-id"
SKIP_NETWORK: Final = "io.microsoft.cri.skip-pod-networking"

#: What does nothing for ever, where a cluster has a program named pause.
_PAUSE: Final = ("/bin/sleep", "2147483647")
#: Namespaces of the sandbox that its workloads join, and their names below /proc/<pid>/ns.
_SHARED: Final = {"ipc": "ipc", "network": "net", "uts": "uts"}


class Pod:
    """A pod of a VM.

    Args:
        guest: The VM's agent.
        layers: Directories of the guest with the root file system, top-most first; all containers
            of the pod have it.
        layout: Which shim to follow.
        scratch: A disk to write on, for all containers of the pod, or a directory of the guest;
            ``None``: the directories of the containers.
        network: Its network namespace; ``None``: all its network is a loopback interface.
        pod_id: Its id, which is the sandbox's, too.
    """

    def __init__(
        self,
        guest: Guest,
        layers: list[str],
        *,
        layout: Layout = "v1",
        scratch: ScsiAddress | str | None = None,
        network: NetworkNamespace | None = None,
        pod_id: str | None = None,
    ) -> None:
        self.guest = guest
        self.id = pod_id or new_container_id()
        self.layout: Layout = layout
        self.network = network
        self.workloads: list[Container] = []
        self._layers = layers
        self._scratch = scratch
        # The v1 shim never unmounts the disk of a sandbox. When it is unmounted, what the agent has
        # mounted there for the pod has to be gone, so this is in the order of the v2 shim.
        self.sandbox = Container(
            guest, self.id, self._place(self.id), network=network, delete_first=True
        )

    async def start(
        self,
        process: ProcessOptions | None = None,
        hostname: str = "pod",
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Create and start the sandbox; when that fails, nothing of it is left.

        Args:
            process: Its init; by default one that does nothing.
            hostname: Host name of the pod.
            adapters: Its network adapters; for others see :meth:`add_adapter`.

        Raises:
            RemoteError: The agent refused.
            UvmError: The host, or QEMU, could not; or there are adapters, and no network namespace.
        """
        options = ContainerOptions(process or ProcessOptions(_PAUSE), hostname=hostname)
        try:
            for adapter in adapters:
                await self.add_adapter(adapter)
            if isinstance(self._scratch, ScsiAddress):
                await self.sandbox.mount_scratch(self._scratch)
            await self.sandbox.combine(self._layers, writable=True)
            document = sandbox_document(
                options,
                self.sandbox.rootfs_path,
                self._namespace_id,
                skip=self.network is None or not self.network.adapters,
            )
            await self.sandbox.create_from(document)
            await self.sandbox.start(output=False)
        except BaseException:
            await self.sandbox.remove()
            raise

    async def add_adapter(self, adapter: Adapter, adapter_id: str | None = None) -> str:
        """Give the pod another network adapter; it may be running.

        Args:
            adapter: The adapter.
            adapter_id: A GUID; by default a new one.

        Returns:
            The adapter's id.

        Raises:
            RemoteError: The agent refused.
            UvmError: The host, or QEMU, could not; or the pod has no network namespace.
        """
        if self.network is None:
            raise UvmError(f"pod {self.id} has no network namespace for an adapter")
        return await self.network.add(adapter, adapter_id)

    async def remove_adapter(self, adapter_id: str) -> None:
        """Take a network adapter away from the pod; it may be running.

        Raises:
            RemoteError: The agent could not do its part; the adapter is taken out all the same.
            UvmError: The pod has no such adapter, or the VM did not let go of it.
        """
        if self.network is None:
            raise UvmError(f"pod {self.id} has no adapter {adapter_id}")
        await self.network.remove_adapter(adapter_id)

    async def create(self, options: ContainerOptions, container_id: str | None = None) -> Container:
        """Create a workload; its init is not running yet. When it fails, nothing of it is left.

        Args:
            options: The container; its host name is the pod's.
            container_id: Its id.

        Raises:
            UvmError: The pod was not started, or a volume can't be shared.
            RemoteError: The agent refused.
        """
        if self.sandbox.init is None:
            raise UvmError(f"pod {self.id} has not been started")
        container_id = container_id or new_container_id()
        workload = Container(
            self.guest,
            container_id,
            self._place(container_id),
            delete_first=self.layout == "v2",
        )
        sandbox_pid = self.sandbox.init.pid
        try:
            await workload.combine(self._layers, writable=True)
            document = workload_document(
                options,
                workload.rootfs_path,
                self._namespace_id,
                sandbox_id=self.id,
                sandbox_pid=sandbox_pid,
                mounts=await workload.mount_volumes(options.volumes),
            )
            await workload.create_from(document)
        except BaseException:
            await workload.remove()
            raise
        self.workloads.append(workload)
        return workload

    async def remove_workload(self, workload: Container) -> None:
        """End a workload and have nothing left of it."""
        self.workloads.remove(workload)
        await workload.remove()

    async def remove(self) -> None:
        """End and remove all workloads, then the sandbox.

        All of it is tried, whatever fails.

        Raises:
            RemoteError: The first failure.
        """
        workloads, self.workloads = self.workloads, []
        errors: list[Exception] = []
        # One by one: each takes a program of the guest's that takes memory.
        for container in (*workloads, self.sandbox):
            try:
                await _end_and_remove(container)
            except Exception as error:  # noqa: BLE001 - the others still have to be removed
                errors.append(error)
        if errors:
            raise errors[0]

    @property
    def _namespace_id(self) -> str | None:
        return None if self.network is None else self.network.id

    def _place(self, container_id: str) -> ContainerPlace:
        if self.layout == "v1":
            root, mount = f"/run/gcs/c/{container_id}", f"/run/gcs/c/{self.id}"
            scratch = f"scratch/{container_id}"
        else:
            root = mount = f"/run/gcs/pods/{self.id}/{container_id}"
            scratch = f"scratch/{self.id}/{container_id}"
        if isinstance(self._scratch, str):
            mount = self._scratch
        elif self._scratch is not None and self.layout == "v2":
            mount = f"/run/mounts/scsi/{self._scratch.controller}_{self._scratch.lun}_0"
        shares = "/run/mounts/plan9" if self.layout == "v2" else None
        return ContainerPlace(root, mount, f"{mount}/{scratch}", shares)


def sandbox_document(
    options: ContainerOptions, root_path: str, namespace_id: str | None = None, *, skip: bool = True
) -> dict[str, Any]:
    """Return an OCI specification for the sandbox of a pod.

    Args:
        options: The container.
        root_path: Where its root file system is mounted.
        namespace_id: The pod's network namespace; ``None`` without one.
        skip: There is no adapter yet, so the agent doesn't know the namespace.
    """
    document = container_document(options, root_path, namespace_id)
    document["annotations"] = {CONTAINER_TYPE: "sandbox"}
    if skip:
        document["annotations"][SKIP_NETWORK] = "true"
    return document


def workload_document(
    options: ContainerOptions,
    root_path: str,
    namespace_id: str | None = None,
    *,
    sandbox_id: str,
    sandbox_pid: int,
    mounts: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return an OCI specification for a container of a pod.

    Args:
        options: The container.
        root_path: Where its root file system is mounted.
        namespace_id: The pod's network namespace; ``None`` without one.
        sandbox_id: The pod's sandbox.
        sandbox_pid: Id of the sandbox's init in the VM, whose namespaces it joins.
        mounts: Its volumes.
    """
    document = container_document(options, root_path, namespace_id, mounts=mounts)
    document["annotations"] = {CONTAINER_TYPE: "container", SANDBOX_ID: sandbox_id}
    # It has the pod's (spec 4.5).
    del document["hostname"]
    for namespace in document["linux"]["namespaces"]:
        shared = _SHARED.get(namespace["type"])
        if shared is not None:
            namespace["path"] = f"/proc/{sandbox_pid}/ns/{shared}"
    return document


async def _end_and_remove(container: Container) -> None:
    try:
        if container.init is not None and not container.ended:
            await container.kill()
    finally:
        await container.remove()
