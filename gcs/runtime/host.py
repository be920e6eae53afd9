"""All state of the agent, and what a host can ask of it; the bridge calls nothing else."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import (
    GcsError,
    InvalidStateError,
    NotFoundError,
    SystemAlreadyExistsError,
    SystemNotFoundError,
    error_text,
)
from gcs.protocol.message import UVM_ID
from gcs.protocol.oci import read_specification
from gcs.protocol.settings import ADD
from gcs.runtime.bundle import check_path
from gcs.runtime.container import Container, Status
from gcs.runtime.external import command_of, start_external
from gcs.runtime.properties import read_properties
from gcs.runtime.resources import CONTAINER_RESOURCES, modify_container, read_settings
from gcs.runtime.spec import check_container_id, check_process
from gcs.stdio import StdioPorts, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.protocol.requests import (
        ContainerSettings,
        ModificationRequest,
        ProcessParameters,
        PropertyQuery,
        VsockStdioRelaySettings,
    )
    from gcs.protocol.responses import Notification, Properties
    from gcs.runtime.children import Children
    from gcs.runtime.memory import VmMemory
    from gcs.runtime.oci import OciRuntime
    from gcs.runtime.process import Process, WaitResult
    from gcs.runtime.resources import ResourceTable
    from gcs.runtime.surroundings import Surroundings
    from gcs.transport import Transport

logger = logging.getLogger(__name__)

# For each process that has to end with the agent.
_CLOSE_SECONDS: Final = 10.0


class Host:
    """Containers, and processes of the VM.

    Args:
        transport: Dials the host for the streams of processes.
        children: Starts and watches processes; closed together with this.
        runtime: Makes containers.
        resources: Drivers of the VM's resources.
        surroundings: Pods, and what else containers stand in.
        publish: Called once for every container that was created, when it has ended and every
            wait for its init has been answered.
        memory: Closed together with this.
    """

    __slots__ = (
        "_children",
        "_connected_since",
        "_containers",
        "_externals",
        "_memory",
        "_publish",
        "_resources",
        "_runtime",
        "_surroundings",
        "_transport",
    )

    def __init__(
        self,
        *,
        transport: Transport,
        children: Children,
        runtime: OciRuntime,
        resources: ResourceTable,
        surroundings: Surroundings,
        publish: Callable[[Notification], None],
        memory: VmMemory | None = None,
    ) -> None:
        self._transport = transport
        self._children = children
        self._runtime = runtime
        self._resources = resources
        self._surroundings = surroundings
        self._publish = publish
        self._memory = memory
        # Made when a host has come: there is nothing to be asked before.
        self._connected_since: float | None = asyncio.get_running_loop().time()
        self._containers: dict[str, Container] = {}
        self._externals: dict[int, Process] = {}

    async def create_container(
        self, container_id: str, activity_id: str | None, settings: ContainerSettings
    ) -> None:
        """Create a container: a pod's sandbox, a workload of a pod, or one of its own.

        Raises:
            InvalidArgumentError: The id, or a path, is not valid.
            InvalidJsonError: No proper specification.
            SystemAlreadyExistsError: The id is taken.
            NotFoundError: The network namespace of a sandbox is not known.
            GcsError: The container can't be made; nothing is left of it.
        """
        check_container_id(container_id)
        document, view = read_specification(settings.oci_specification)
        path = check_path(settings.oci_bundle_path, "OciBundlePath")
        scratch = settings.scratch_dir_path
        if scratch:
            scratch = check_path(scratch, "ScratchDirPath")
        if view.process is not None:
            check_process(view.process)
        if container_id in self._containers:
            raise SystemAlreadyExistsError(f"container {container_id} exists already")
        container = Container(
            container_id,
            activity_id,
            runtime=self._runtime,
            transport=self._transport,
            publish=self._publish,
            host_connected_since=lambda: self._connected_since,
        )
        self._containers[container_id] = container
        try:
            async with self._surroundings.prepare(container_id, document, view, path) as prepared:
                connect = partial(self._surroundings.connect, prepared)
                await container.create(prepared, scratch, connect)
        except BaseException:
            del self._containers[container_id]
            raise

    def require_container(self, container_id: str) -> Container:
        """Return a container.

        Raises:
            SystemNotFoundError: No such container.
            InvalidStateError: It is still being created.
        """
        container = self._containers.get(container_id)
        if container is None:
            raise SystemNotFoundError(f"container {container_id[:100]!r} does not exist")
        if container.status is Status.CREATING:
            raise InvalidStateError(f"container {container_id} is still being created")
        return container

    async def execute_process(
        self,
        container_id: str,
        parameters: ProcessParameters,
        ports: VsockStdioRelaySettings,
    ) -> int:
        """Run a process of the VM, start a container's init, or run a process in a container.

        Returns:
            Its pid.

        Raises:
            GcsError: The host can't be reached, or the process can't be started.
        """
        wanted = StdioPorts(
            ports.std_in if parameters.create_std_in_pipe else None,
            ports.std_out if parameters.create_std_out_pipe else None,
            ports.std_err if parameters.create_std_err_pipe else None,
        )
        if container_id == UVM_ID or parameters.create_in_utility_vm:
            return await self._execute_external(parameters, wanted)
        container = self.require_container(container_id)
        if parameters.oci_process is None:
            return await container.start(wanted)
        return await container.exec(parameters.oci_process, wanted)

    async def wait_for_process(self, container_id: str, pid: int, timeout_ms: int) -> WaitResult:
        """Wait for the exit code of a process; the caller has to call the result's answered().

        Raises:
            SystemNotFoundError: No such container.
            NotFoundError: No such process, or its exit code was collected by everybody.
            WaitTimeoutError: It still runs after so many milliseconds.
        """
        if container_id == UVM_ID:
            external = self._externals.get(pid)
            if external is None:
                raise NotFoundError(f"the VM has no process {pid} that was started by the host")
            return await external.wait(timeout_ms)
        return await self.require_container(container_id).process(pid).wait(timeout_ms)

    async def signal_process(self, container_id: str, pid: int, signal: int) -> None:
        """Send a signal; 0 stands for SIGKILL.

        Raises:
            SystemNotFoundError: No such container, or no such process of the VM.
            NotFoundError: No such process of the container, or the process has ended.
            InvalidArgumentError: No such signal.
        """
        number = signal or 9
        if container_id == UVM_ID:
            self._require_external(pid).signal(number)
        else:
            await self.require_container(container_id).signal(pid, number)

    async def resize_console(self, container_id: str, pid: int, height: int, width: int) -> None:
        """Set the size of a process's terminal, in character cells.

        Raises:
            SystemNotFoundError: No such container, or no such process of the VM.
            NotFoundError: No such process of the container.
            GcsError: The process has no terminal.
        """
        if container_id == UVM_ID:
            self._require_external(pid).resize(height, width)
        else:
            self.require_container(container_id).process(pid).resize(height, width)

    async def shutdown_container(self, container_id: str, *, graceful: bool) -> None:
        """Send SIGTERM or SIGKILL to a container's init.

        Raises:
            SystemNotFoundError: No such container.
            SystemAlreadyStoppedError: It has ended.
        """
        await self.require_container(container_id).shutdown(graceful=graceful)

    async def properties(self, container_id: str, query: PropertyQuery) -> Properties:
        """Return the properties of a container that a query names.

        Raises:
            SystemNotFoundError: No such container.
            GcsError: The VM itself was asked.
        """
        if container_id == UVM_ID:
            raise GcsError("the VM itself has no properties to ask for")
        return await read_properties(self.require_container(container_id).prepared.cgroup, query)

    async def modify_settings(self, container_id: str, request: ModificationRequest) -> None:
        """Add, remove or update a resource of the VM or of a container.

        Raises:
            GcsError: Unknown resource type, unsupported request type, or the driver fails.
            InvalidJsonError: Settings of another form.
            SystemNotFoundError: No such container.
        """
        settings = read_settings(request)
        resource_type = request.resource_type
        request_type = request.request_type or ADD
        if container_id == UVM_ID and resource_type not in CONTAINER_RESOURCES:
            await self._resources.modify(resource_type, request_type, settings)
            return
        container = self.require_container(container_id)
        await modify_container(container, resource_type, request_type, settings)

    async def delete_container_state(self, container_id: str) -> None:
        """Delete a container, killing it if it runs; it is forgotten in any case.

        Raises:
            SystemNotFoundError: No such container.
            InvalidStateError: It is still being created.
            GcsError: Something of it is left.
        """
        container = self.require_container(container_id)
        try:
            await container.delete()
        except asyncio.CancelledError:
            # Not done: close() will come back to it.
            raise
        except Exception as error:
            await self._forget(container)
            if isinstance(error, OSError):
                raise GcsError(error_text(error)) from error
            raise
        await self._forget(container)

    def bridge_connected(self) -> None:
        """Take note that the host is there: its streams can be dialled."""
        self._connected_since = asyncio.get_running_loop().time()

    def bridge_lost(self) -> None:
        """Take note that the host is away: perhaps all streams are lost, and wait for it."""
        self._connected_since = None
        for container in self._containers.values():
            container.connection_lost()

    async def close(self) -> None:
        """End everything that belongs to the agent."""
        if self._memory is not None:
            self._memory.close()
        for container_id, container in list(self._containers.items()):
            if container.status is not Status.CREATING:
                try:
                    await self.delete_container_state(container_id)
                except GcsError as error:
                    logger.warning("container %s: %s", container_id, error)
        externals = list(self._externals.values())
        for process in externals:
            process.kill()
        await asyncio.gather(*(process.end(_CLOSE_SECONDS) for process in externals))
        await self._surroundings.close()
        self._children.close()

    async def _forget(self, container: Container) -> None:
        if self._containers.get(container.id) is container:
            del self._containers[container.id]
            await self._surroundings.release(container.prepared)

    async def _execute_external(self, parameters: ProcessParameters, ports: StdioPorts) -> int:
        arguments = command_of(parameters)
        sockets = await connect(self._transport, ports)
        process = start_external(self._children, arguments, parameters, sockets)
        process.on_settled = lambda: self._forget_external(process)
        self._externals[process.pid] = process
        return process.pid

    def _forget_external(self, process: Process) -> None:
        if process.collected and self._externals.get(process.pid) is process:
            del self._externals[process.pid]
            process.close()

    def _require_external(self, pid: int) -> Process:
        process = self._externals.get(pid)
        if process is None:
            raise SystemNotFoundError(f"the VM has no process {pid} that was started by the host")
        return process
