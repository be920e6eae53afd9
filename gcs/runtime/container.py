"""A container: its init, the processes run in it, and its exit (spec 4.1, 4.10)."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal as signals
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.errors import (
    GcsError,
    InvalidStateError,
    NotFoundError,
    SystemAlreadyExistsError,
    SystemAlreadyStoppedError,
    SystemNotFoundError,
)
from gcs.protocol.oci import read_process
from gcs.runtime.bundle import make_directories_beneath
from gcs.runtime.exit_log import ExitLog
from gcs.runtime.exit_notice import ExitNotice
from gcs.runtime.pods.logs import open_log
from gcs.runtime.process import Process
from gcs.runtime.removal import remove_directories, remove_shared_directories
from gcs.runtime.spec import check_process
from gcs.stdio import PipeRelay, Reconnect, TeeLog, TtyRelay, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gcs.linux.pidfd import ExitStatus
    from gcs.protocol.oci import Process as OciProcess
    from gcs.protocol.responses import Notification
    from gcs.runtime.children import Child
    from gcs.runtime.oci import OciRuntime
    from gcs.runtime.surroundings import Prepared
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
    PAUSED = "paused"
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
        host_connected_since: See :class:`gcs.stdio.Reconnect`.

    Attributes:
        status: Where it is in its life.
        prepared: What it is; set when it is created, as the two that follow.
        scratch: Directory for its temporary state, or "".
        init: Its first process.
    """

    __slots__ = (
        "_activity_id",
        "_exit_log",
        "_host_connected_since",
        "_lock",
        "_notice",
        "_processes",
        "_publish",
        "_runtime",
        "_transport",
        "id",
        "init",
        "prepared",
        "scratch",
        "status",
    )

    def __init__(
        self,
        container_id: str,
        activity_id: str | None,
        *,
        runtime: OciRuntime,
        transport: Transport,
        publish: Callable[[Notification], None],
        host_connected_since: Callable[[], float | None],
    ) -> None:
        self.id = container_id
        self.status = Status.CREATING
        self.prepared: Prepared
        self.scratch = ""
        self.init: Process
        self._activity_id = activity_id
        self._notice: ExitNotice
        self._runtime = runtime
        self._transport = transport
        self._publish = publish
        self._host_connected_since = host_connected_since
        self._exit_log: ExitLog
        self._processes: dict[int, Process] = {}
        self._lock = asyncio.Lock()

    async def create(
        self,
        prepared: Prepared,
        scratch: str,
        connect: Callable[[Child], Awaitable[None]],
    ) -> None:
        """Make the container from a bundle that is ready (``runc create``).

        Args:
            prepared: What it is.
            scratch: Directory for its temporary state, or "".
            connect: Gives network adapters to it by its first process.

        Raises:
            GcsError: The runtime refuses, or its network can't be made; nothing is left then.
        """
        self.prepared, self.scratch = prepared, scratch
        exit_log = self._exit_log = ExitLog(self.id, prepared.cgroup)
        process = prepared.view.process
        terminal = process is not None and process.terminal
        pipes = None if terminal else PipeRelay.create(f"container {self.id}")
        try:
            child, console = await self._runtime.create(
                self.id, prepared.plan.bundle, None if pipes is None else pipes.child
            )
            try:
                await connect(child)
            except BaseException:
                if console is not None:
                    os.close(console)
                raise
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
        self._notice = ExitNotice(
            self.id, self._activity_id, self.init, lambda: exit_log.oom_kills, self._publish
        )
        self.status = Status.CREATED

    async def start(self, ports: StdioPorts) -> int:
        """Start the init (``runc start``) with its streams; return its pid.

        Raises:
            InvalidStateError: It was started before.
            GcsError: The host can't be reached, or the runtime fails; it can be started again.
        """
        self._log("Start")
        async with self._lock:
            if self.status is not Status.CREATED:
                raise InvalidStateError(
                    f"container {self.id} can't be started: it is {self.status.value}"
                )
            tee = await self._open_tee_log()
            try:
                sockets = await connect(self._transport, ports)
                try:
                    await self._runtime.start(self.id)
                except BaseException:
                    sockets.close()
                    raise
            except BaseException:
                if tee is not None:
                    tee.close()
                raise
            # Only now: a start that failed leaves the pipes for another one.
            if self.init.relay is not None:
                reconnect = Reconnect(self._transport, ports, self._host_connected_since)
                self.init.relay.attach(sockets, reconnect=reconnect, tee=tee)
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
            InvalidStateError: It is paused.
            GcsError: The host can't be reached, or the runtime refuses.
        """
        self._log("ExecProcess")
        document, process = read_process(document)
        check_process(process)
        self._require_alive()
        if self.status is Status.PAUSED:
            raise InvalidStateError(f"container {self.id} is paused: resume it first")
        await asyncio.to_thread(self._prepare_process, document, process)
        sockets = await connect(self._transport, ports)
        name = f"a process of container {self.id}"
        relay: PipeRelay | TtyRelay | None = None
        try:
            pipes = None if process.terminal else PipeRelay.create(name, ports)
            relay = pipes
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
            f"process {child.pid} of container {self.id}",
            child,
            relay,
            exit_code=_exit_code,
            on_exit=lambda: self._after_process(started),
        )
        started.on_settled = lambda: self._forget_collected(started)
        if self.status is Status.DELETED:
            started.kill()
            await started.end(KILL_LIMIT)
            raise SystemNotFoundError(f"container {self.id} was deleted in the meantime")
        self._processes[child.pid] = started
        return child.pid

    def _log(self, operation: str) -> None:
        """Log what operators search for: the words of the reference (spec appendix C)."""
        logger.info("opengcs::Container::%s", operation, extra={"cid": self.id})

    def process(self, pid: int) -> Process:
        """Return the init or another process by its pid.

        Raises:
            NotFoundError: No such process, or its exit code was collected.
        """
        process = self.init if pid == self.init.pid else self._processes.get(pid)
        if process is None:
            raise NotFoundError(f"container {self.id} has no process {pid}")
        return process

    async def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process; SIGKILL for the init ends a pause.

        Raises:
            NotFoundError: No such process, or it has ended.
            InvalidArgumentError: No such signal.
            GcsError: It was to be killed, and the runtime can't resume it.
        """
        process = self.process(pid)
        if process is not self.init:
            process.signal(number)
            return
        with self._notice.caused_by(number):
            process.signal(number)
        if number == signals.SIGKILL:
            self._stop_reconnecting()
            await self._thaw_to_die()

    async def shutdown(self, *, graceful: bool) -> None:
        """Send SIGTERM or SIGKILL to the init by way of the runtime; SIGKILL ends a pause.

        Raises:
            SystemAlreadyStoppedError: The container has ended.
            GcsError: The runtime fails.
        """
        self._require_alive()
        number = signals.SIGTERM if graceful else signals.SIGKILL
        self._log("Kill")
        if not graceful and self.status is Status.PAUSED:
            # Of the runtimes runc thaws what it kills, crun does not.
            await self.signal(self.init.pid, number)
            return
        with self._notice.caused_by(number):
            await self._runtime.kill(self.id, number)
        if not graceful:
            self._stop_reconnecting()

    async def pause(self) -> None:
        """Freeze all its processes (``runc pause``); one that is paused stays so.

        Raises:
            InvalidStateError: It doesn't run.
            GcsError: The runtime fails.
        """
        async with self._lock:
            if self.status is Status.RUNNING:
                await self._runtime.pause(self.id)
                # It may have ended in the meantime.
                if self.status is Status.RUNNING:
                    self.status = Status.PAUSED
            elif self.status is not Status.PAUSED:
                raise InvalidStateError(
                    f"container {self.id} can't be paused: it is {self.status.value}"
                )

    async def resume(self) -> None:
        """Thaw its processes (``runc resume``); one that is not paused goes on.

        Raises:
            InvalidStateError: It is neither paused nor running.
            GcsError: The runtime fails.
        """
        async with self._lock:
            if self.status is Status.PAUSED:
                await self._runtime.resume(self.id)
                if self.status is Status.PAUSED:
                    self.status = Status.RUNNING
            elif self.status is not Status.RUNNING:
                raise InvalidStateError(
                    f"container {self.id} can't be resumed: it is {self.status.value}"
                )

    async def _thaw_to_die(self) -> None:
        """Resume it if it is paused, since a signal may not reach what is frozen (cgroup v1)."""
        async with self._lock:
            if self.status is Status.PAUSED:
                try:
                    await self._runtime.resume(self.id)
                except GcsError:
                    # On cgroup v2 it has died meanwhile.
                    if not self.init.ended:
                        raise

    def connection_lost(self) -> None:
        """Have its streams look whether they are lost, as the bridge is."""
        if self.status is not Status.CREATING:
            for process in (self.init, *self._processes.values()):
                if process.relay is not None:
                    process.relay.connection_lost()

    async def update(self, resources: dict[str, Any]) -> None:
        """Set limits (``runc update``); resources: OCI LinuxResources."""
        self._log("Update")
        await self._runtime.update(self.id, resources)

    async def delete(self) -> None:
        """Remove everything that belongs to it; a container that still runs is killed.

        Raises:
            GcsError: Something is left; it is to be forgotten nevertheless.
        """
        self._log("Delete")
        async with self._lock:
            self.status = Status.DELETED
            self._stop_reconnecting()
            if not self.init.ended:
                self._notice.will_be_caused_by(signals.SIGKILL)
            failure = None
            try:
                await self._remove_from_runtime()
            except GcsError as error:
                failure = error
            await self._end_processes()
            self._notice.hurry()
            await remove_shared_directories(self.prepared.plan)
            if failure is not None:
                await self._remove_control_group()
                raise failure
            await remove_directories(self.prepared.plan, self.prepared.view, self.scratch)

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
            group = self.prepared.cgroup
            await asyncio.to_thread(group.delete, kill=True, limit=KILL_LIMIT)
        except GcsError as error:
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

    async def _after_init(self) -> None:
        """Note the end of the init, and kill what it leaves when it had no pid namespace."""
        if self.status is Status.DELETED:
            return
        await self._log_exit(self.init)
        # A start that is in progress has yet to attach the streams that are drained next.
        async with self._lock:
            self.status = Status.TERMINATED
        if not self._has_own_pid_namespace():
            await self._runtime.kill(self.id, signals.SIGKILL, everything=True)

    async def _after_process(self, process: Process) -> None:
        """Note the end of a process that the init has not waited for."""
        if self.status is not Status.DELETED:
            await self._log_exit(process)

    async def _log_exit(self, process: Process) -> None:
        status = process.status
        await self._exit_log.note(process.pid, None if status is None else _exit_code(status))

    def _has_own_pid_namespace(self) -> bool:
        linux = self.prepared.view.linux
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

    def _stop_reconnecting(self) -> None:
        if self.init.relay is not None:
            self.init.relay.stop_reconnecting()

    async def _open_tee_log(self) -> TeeLog | None:
        plan = self.prepared.plan
        path = plan.annotations.tee_log_path
        if not path:
            return None
        return TeeLog(await asyncio.to_thread(open_log, plan.root, path), path)

    def _prepare_process(self, document: dict[str, Any], process: OciProcess) -> None:
        """Complete a process, and make its working directory as far as that is safe (spec 4.8)."""
        defaults = self.prepared.defaults
        defaults.apply(document, process)
        if process.cwd.strip("/"):
            try:
                make_directories_beneath(defaults.rootfs, process.cwd)
            except OSError as error:
                text = "container %s: working directory %s not made: %s"
                logger.info(text, self.id, process.cwd, error)


def _exit_code(status: ExitStatus) -> int:
    return status.shell_code
