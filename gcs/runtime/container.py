"""A container: its init, the processes run in it, and its exit (spec 4.1, 4.10)."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal as signals
from typing import TYPE_CHECKING, Any, Final

from gcs.cgroup.group import ControlGroup
from gcs.protocol.errors import (
    GcsError,
    InvalidStateError,
    NotFoundError,
    SystemAlreadyExistsError,
    SystemAlreadyStoppedError,
    SystemNotFoundError,
)
from gcs.protocol.oci import read_process
from gcs.runtime.bundle import make_directories_beneath, remove_tree
from gcs.runtime.exit_notice import ExitNotice
from gcs.runtime.process import Process
from gcs.runtime.spec import check_arguments
from gcs.stdio import PipeRelay, TtyRelay, connect
from gcs.storage.combined_layers import bundle_is_mounted, unmount_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.linux.pidfd import ExitStatus
    from gcs.protocol.oci import Specification
    from gcs.protocol.responses import Notification
    from gcs.runtime.oci import OciRuntime
    from gcs.stdio import StdioPorts
    from gcs.transport import Transport

logger = logging.getLogger(__name__)

#: How long a container that was told to die may take; runc itself waits 10 s.
KILL_LIMIT: Final = 20.0


class Status(enum.Enum):
    """Where a container is in its life."""

    CREATING = "still being created"
    CREATED = "created, but not started"
    RUNNING = "running"
    TERMINATED = "ended"
    DELETED = "deleted"


class Container:
    """One container.

    Args:
        container_id: Its id.
        activity_id: The one of the create request, for the notification.
        runtime: Makes and removes it.
        transport: Dials the host for the streams of its processes.
        publish: Takes the notification of its exit.

    Attributes:
        status: Where it is in its life.
        view: Its specification; set when it is created, as the three that follow.
        bundle: Its directory.
        scratch: Directory for its temporary state, or "".
        init: Its first process.
    """

    __slots__ = (
        "_activity_id",
        "_lock",
        "_notice",
        "_processes",
        "_publish",
        "_runtime",
        "_transport",
        "bundle",
        "id",
        "init",
        "scratch",
        "status",
        "view",
    )

    def __init__(
        self,
        container_id: str,
        activity_id: str | None,
        *,
        runtime: OciRuntime,
        transport: Transport,
        publish: Callable[[Notification], None],
    ) -> None:
        self.id = container_id
        self.status = Status.CREATING
        self.bundle = ""
        self.scratch = ""
        self.view: Specification
        self.init: Process
        self._activity_id = activity_id
        self._notice: ExitNotice
        self._runtime = runtime
        self._transport = transport
        self._publish = publish
        self._processes: dict[int, Process] = {}
        self._lock = asyncio.Lock()

    @property
    def control_group(self) -> ControlGroup:
        """Its control group."""
        return ControlGroup("" if self.view.linux is None else self.view.linux.cgroups_path)

    async def create(self, view: Specification, bundle: str, scratch: str) -> None:
        """Make the container from a bundle that is ready (``runc create``).

        Raises:
            GcsError: The runtime refuses; nothing is left then.
        """
        self.view, self.bundle, self.scratch = view, bundle, scratch
        process = view.process
        terminal = process is not None and process.terminal
        pipes = None if terminal else PipeRelay.create(f"container {self.id}")
        try:
            child, console = await self._runtime.create(
                self.id, bundle, None if pipes is None else pipes.child
            )
        except BaseException as error:
            if pipes is not None:
                pipes.close()
            # Not what somebody else has made under this id.
            if not isinstance(error, SystemAlreadyExistsError):
                await self._remove_failed()
            raise
        name = f"container {self.id}"
        relay = pipes if console is None else TtyRelay(name, console)
        if pipes is not None:
            pipes.child.close()
        self.init = Process(
            f"init of {name}", child, relay, exit_code=_exit_code, on_exit=self._after_init
        )
        self._notice = ExitNotice(self.id, self._activity_id, self.init, self._publish)
        self.status = Status.CREATED

    async def start(self, ports: StdioPorts) -> int:
        """Start the init (``runc start``) with its streams; return its pid.

        Raises:
            InvalidStateError: It was started before.
            GcsError: The host can't be reached, or the runtime fails; it can be started again.
        """
        async with self._lock:
            if self.status is not Status.CREATED:
                raise InvalidStateError(
                    f"container {self.id} can't be started: it is {self.status.value}"
                )
            sockets = await connect(self._transport, ports)
            try:
                await self._runtime.start(self.id)
            except BaseException:
                sockets.close()
                raise
            # Only now: a start that failed leaves the pipes for another one.
            if self.init.relay is not None:
                self.init.relay.attach(sockets)
            if self.status is Status.CREATED:
                self.status = Status.RUNNING
            return self.init.pid

    async def exec(self, document: dict[str, Any], ports: StdioPorts) -> int:
        """Run another process (``runc exec``); return its pid.

        Args:
            document: OCI process.
            ports: Where the host waits for the streams; the others are /dev/null.

        Raises:
            InvalidJsonError: No OCI process.
            SystemAlreadyStoppedError: The container has ended.
            GcsError: The host can't be reached, or the runtime refuses.
        """
        document, process = read_process(document)
        check_arguments([*process.args, *process.env, process.cwd], "the process")
        self._require_alive()
        sockets = await connect(self._transport, ports)
        name = f"a process of container {self.id}"
        relay: PipeRelay | TtyRelay | None = None
        try:
            pipes = None if process.terminal else PipeRelay.create(name, ports)
            relay = pipes
            await self._make_working_directory(process.cwd)
            child, console = await self._runtime.exec(
                self.id, document, None if pipes is None else pipes.child
            )
            if pipes is not None:
                pipes.child.close()
            if console is not None:
                relay = TtyRelay(name, console)
            if relay is not None:
                relay.attach(sockets)
        except BaseException:
            sockets.close()
            if relay is not None:
                relay.close()
            raise
        started = Process(
            f"process {child.pid} of container {self.id}", child, relay, exit_code=_exit_code
        )
        started.on_settled = lambda: self._forget_collected(started)
        if self.status is Status.DELETED:
            started.kill()
            await started.end(KILL_LIMIT)
            raise SystemNotFoundError(f"container {self.id} was deleted in the meantime")
        self._processes[child.pid] = started
        return child.pid

    def process(self, pid: int) -> Process:
        """Return the init or another process by its pid.

        Raises:
            NotFoundError: No such process, or its exit code was collected.
        """
        process = self.init if pid == self.init.pid else self._processes.get(pid)
        if process is None:
            raise NotFoundError(f"container {self.id} has no process {pid}")
        return process

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process.

        Raises:
            NotFoundError: No such process, or it has ended.
            InvalidArgumentError: No such signal.
        """
        process = self.process(pid)
        if process is not self.init:
            process.signal(number)
            return
        with self._notice.caused_by(number):
            process.signal(number)

    async def shutdown(self, *, graceful: bool) -> None:
        """Send SIGTERM or SIGKILL to the init by way of the runtime, which thaws it if need be.

        Raises:
            SystemAlreadyStoppedError: The container has ended.
            GcsError: The runtime fails.
        """
        self._require_alive()
        number = signals.SIGTERM if graceful else signals.SIGKILL
        with self._notice.caused_by(number):
            await self._runtime.kill(self.id, number)

    async def update(self, resources: dict[str, Any]) -> None:
        """Set limits (``runc update``); resources: OCI LinuxResources."""
        await self._runtime.update(self.id, resources)

    async def delete(self) -> None:
        """Remove everything that belongs to it; a container that still runs is killed.

        Raises:
            GcsError: Something is left; it is to be forgotten nevertheless.
        """
        async with self._lock:
            self.status = Status.DELETED
            if not self.init.ended:
                self._notice.will_be_caused_by(signals.SIGKILL)
            failure = None
            try:
                await self._remove_from_runtime()
            except GcsError as error:
                failure = error
            await self._end_processes()
            self._notice.hurry()
            if failure is not None:
                await self._remove_control_group()
                raise failure
            await self._remove_directories()

    async def _remove_failed(self) -> None:
        """Remove what a runtime that failed, or was killed, may have left."""
        try:
            await self._runtime.delete(self.id, force=True)
        except GcsError as error:
            logger.warning("container %s: clean-up after a failed create: %s", self.id, error)
        await self._remove_control_group()

    async def _remove_control_group(self) -> None:
        """Do what a runtime can't that was killed half-way, or that fails."""
        try:
            await asyncio.to_thread(self.control_group.remove, KILL_LIMIT)
        except OSError as error:
            logger.warning("container %s: its control group is left: %s", self.id, error)

    async def _remove_from_runtime(self) -> None:
        if self.init.ended:
            try:
                await self._runtime.delete(self.id)
                return
            except SystemNotFoundError:
                return
            except GcsError as error:
                logger.warning("container %s: %s; deleting it by force", self.id, error)
        await self._runtime.delete(self.id, force=True)

    async def _end_processes(self) -> None:
        """Wait for the processes, which were killed, and close what they have."""
        processes = [self.init, *self._processes.values()]
        for process in processes:
            process.kill()
        ended = await asyncio.gather(*(process.end(KILL_LIMIT) for process in processes))
        self._processes.clear()
        if not all(ended):
            raise GcsError(f"container {self.id} is deleted, but a process of it doesn't end")

    async def _remove_directories(self) -> None:
        root = self.view.root
        if root is not None and bundle_is_mounted(self._root_path(root.path), self.scratch):
            await unmount_bundle(self.bundle)
        for path in (self.scratch, self.bundle):
            mounted = await asyncio.to_thread(remove_tree, path) if path else []
            if mounted:
                logger.warning(
                    "container %s: left in place, since still mounted: %s",
                    self.id,
                    ", ".join(mounted),
                )

    def _root_path(self, path: str) -> str:
        return os.path.join(self.bundle, path)

    async def _after_init(self) -> None:
        """Note the end of the init, and kill what it leaves when it had no pid namespace."""
        if self.status is Status.DELETED:
            return
        # A start that is in progress has yet to attach the streams that are drained next.
        async with self._lock:
            self.status = Status.TERMINATED
        if not self._has_own_pid_namespace():
            await self._runtime.kill(self.id, signals.SIGKILL, everything=True)

    def _has_own_pid_namespace(self) -> bool:
        linux = self.view.linux
        return linux is not None and any(
            namespace.type == "pid" and not namespace.path for namespace in linux.namespaces
        )

    def _require_alive(self) -> None:
        if self.status is Status.DELETED or self.init.ended:
            raise SystemAlreadyStoppedError(f"container {self.id} has ended")

    def _forget_collected(self, process: Process) -> None:
        """Drop a process whose exit code was delivered and that nobody waits for (spec 4.10)."""
        if process.collected and self._processes.get(process.pid) is process:
            del self._processes[process.pid]
            process.close()

    async def _make_working_directory(self, path: str) -> None:
        """Make the working directory of a process, as far as that is safe from here (spec 4.8)."""
        root = self.view.root
        if root is None or path.strip("/") == "":
            return
        try:
            await asyncio.to_thread(make_directories_beneath, self._root_path(root.path), path)
        except OSError as error:
            logger.info("container %s: working directory %s not made: %s", self.id, path, error)


def _exit_code(status: ExitStatus) -> int:
    return status.shell_code
