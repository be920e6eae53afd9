"""runc by its command line (spec 4.8), and crun, which understands the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import msgspec

from gcs.cgroup.limits import total_memory
from gcs.protocol.decode import looked_at
from gcs.protocol.errors import GcsError, InvalidJsonError
from gcs.runtime.children import NULL
from gcs.runtime.crun import adapt_bundle, adapt_resources
from gcs.runtime.limits import LinuxResources
from gcs.runtime.oci import RuntimeProcess
from gcs.runtime.operation import Operation
from gcs.runtime.runtime_errors import runtime_error
from gcs.runtime.turns import Turns, calls_at_once
from gcs.storage.driver import in_thread
from gcs.storage.mounts import KernelMounts, unmount_all_under

if TYPE_CHECKING:
    from gcs.runtime.children import Child, Children
    from gcs.stdio import ChildDescriptors

logger = logging.getLogger(__name__)

#: Runtimes that are known, the one to be preferred first.
RUNTIMES = ("runc", "crun")
#: Where files live as long as one call of the runtime.
STATE_DIRECTORY = "/var/run/gcsrunc"
# The host gives a request up after 5 minutes.  One that fails takes a second call, which cleans
# up: both together stay under the 4 minutes that the agent allows itself.
TIME_LIMIT = 150.0
CLEANUP_LIMIT = 60.0
_PAUSE_POLL = 0.02


class Runc:
    """See :class:`gcs.runtime.oci.OciRuntime`.

    Args:
        children: Starts the runtime, and adopts what it leaves.
        program: Name, to be found in PATH, or path of the runtime; by default see
            :func:`find_runtime`.
        state_directory: For files that live as long as a call.
        root: Where the runtime keeps what it knows of containers; by default below /run.
        time_limit: Seconds after which a call is killed.
        at_once: How many calls may make processes, and how many others may run, at the same time.
    """

    __slots__ = (
        "_children",
        "_is_crun",
        "_making",
        "_managing",
        "_name",
        "_program",
        "_root",
        "_state_directory",
        "_time_limit",
    )

    def __init__(
        self,
        children: Children,
        *,
        program: str = "",
        state_directory: str = STATE_DIRECTORY,
        root: str = "",
        time_limit: float = TIME_LIMIT,
        at_once: int | None = None,
    ) -> None:
        self._children = children
        self._program = program or find_runtime()
        self._name = os.path.basename(self._program)
        self._state_directory = state_directory
        self._is_crun = "crun" in self._name
        self._root = root or f"/run/{'crun' if self._is_crun else 'runc'}"
        self._time_limit = time_limit
        if at_once is None:
            at_once = calls_at_once(total_memory())
        # Two queues: killing a container must not wait until fifty others have been made.
        self._making, self._managing = Turns(at_once), Turns(at_once)

    async def create(
        self, container_id: str, bundle: str, descriptors: ChildDescriptors | None
    ) -> RuntimeProcess:
        """See OciRuntime.create."""
        if self._is_crun:
            await in_thread(adapt_bundle, bundle)
        with Operation(self._state_directory) as operation:
            command = ["create", "-b", bundle, "--no-pivot"]
            return await self._make_process(operation, command, container_id, descriptors)

    async def exec(
        self, container_id: str, process: dict[str, Any], descriptors: ChildDescriptors | None
    ) -> RuntimeProcess:
        """See OciRuntime.exec."""
        with Operation(self._state_directory) as operation:
            path = operation.write("process.json", msgspec.json.encode(process))
            command = ["exec", "-d", "--process", path]
            return await self._make_process(operation, command, container_id, descriptors)

    async def start(self, container_id: str) -> None:
        """See OciRuntime.start."""
        await self._call("start", container_id)

    async def kill(self, container_id: str, signal: int, *, everything: bool = False) -> None:
        """See OciRuntime.kill."""
        flags = ["--all"] if everything else []
        await self._call("kill", *flags, container_id, str(signal))

    async def delete(self, container_id: str, *, force: bool = False) -> None:
        """See OciRuntime.delete."""
        if force:
            await in_thread(_unmount_state, f"{self._root}/{container_id}")
        flags = ["--force"] if force else []
        await self._call("delete", *flags, container_id, time_limit=CLEANUP_LIMIT)

    async def pause(self, container_id: str) -> None:
        """See OciRuntime.pause."""
        await self._call("pause", container_id)
        if self._is_crun:
            await self._wait_until_paused(container_id)

    async def resume(self, container_id: str) -> None:
        """See OciRuntime.resume."""
        await self._call("resume", container_id)

    async def state(self, container_id: str) -> dict[str, Any]:
        """See OciRuntime.state."""
        output = await self._call("state", container_id)
        state: dict[str, Any] = self._decode(output, dict[str, Any], "state")
        return state

    async def ps(self, container_id: str) -> list[int]:
        """See OciRuntime.ps."""
        output = await self._call("ps", "-f", "json", container_id)
        pids: list[int] = self._decode(output, list[int], "ps")
        return pids

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """See OciRuntime.update."""
        try:
            # crun passes over what is of the wrong type, and says that all is well.
            msgspec.convert(resources, looked_at(LinuxResources))
        except msgspec.ValidationError as error:
            raise InvalidJsonError(f"{self._name} update: resources: {error}") from error
        if self._is_crun:
            resources = adapt_resources(resources)
        document = msgspec.json.encode(resources)
        await self._call("update", "--resources", "-", container_id, stdin=document)

    async def _wait_until_paused(self, container_id: str) -> None:
        """On cgroup v1 crun, unlike runc, leaves before the kernel has frozen all processes."""
        try:
            async with asyncio.timeout(CLEANUP_LIMIT):
                while (await self.state(container_id)).get("status") == "running":  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(_PAUSE_POLL)
        except TimeoutError:
            raise GcsError(
                f"{self._name} pause {container_id}: not all processes are frozen after "
                f"{CLEANUP_LIMIT:g} s"
            ) from None

    async def _make_process(
        self,
        operation: Operation,
        command: list[str],
        container_id: str,
        descriptors: ChildDescriptors | None,
    ) -> RuntimeProcess:
        command = [*command, "--pid-file", operation.pid_file]
        if descriptors is None:
            command += ["--console-socket", operation.listen_for_console()]
            stdio = (NULL, NULL, NULL)
        else:
            stdio = (descriptors.stdin, descriptors.stdout, descriptors.stderr)
        async with self._making.taken():
            with self._children.expect() as newcomers:
                await self._run(operation, [*command, container_id], stdio, self._time_limit)
                try:
                    child = newcomers.adopt(operation.read_pid())
                except ProcessLookupError as error:
                    raise GcsError(f"{self._name} {command[0]} {container_id}: {error}") from error
        try:
            console = operation.receive_console() if descriptors is None else None
        except BaseException:
            child.kill()
            raise
        return RuntimeProcess(child, console)

    async def _call(
        self, *command: str, stdin: bytes | None = None, time_limit: float | None = None
    ) -> bytes:
        """Run a command that makes no process; return its standard output."""
        with Operation(self._state_directory) as operation, contextlib.ExitStack() as opened:
            source = NULL
            if stdin is not None:
                source = os.open(operation.write("stdin", stdin), os.O_RDONLY)
                opened.callback(os.close, source)
            output = operation.create_output()
            limit = self._time_limit if time_limit is None else time_limit
            async with self._managing.taken():
                await self._run(operation, list(command), (source, output, output), limit)
            return operation.read_output()

    async def _run(
        self,
        operation: Operation,
        command: list[str],
        stdio: tuple[int, int, int],
        time_limit: float,
    ) -> None:
        arguments = [self._program, "--log", operation.log, "--log-format", "json", *command]
        stdin, stdout, stderr = stdio
        try:
            child = self._children.spawn(
                arguments, stdin=stdin, stdout=stdout, stderr=stderr, leads_group=True
            )
        except OSError as error:
            raise GcsError(
                f"cannot run the container runtime {self._program}: {error.strerror}; "
                f"PATH is {os.environ.get('PATH', '')}"
            ) from error
        what = f"{self._name} {command[0]}"
        await self._wait(child, what, time_limit)
        status = await child.wait()
        if status.code or status.signal:
            raise runtime_error(what, operation.failure(status))

    async def _wait(self, child: Child, what: str, time_limit: float) -> None:
        try:
            async with asyncio.timeout(time_limit):
                await child.wait()
        except TimeoutError:
            child.kill_group()
            # Killed, it holds its files a moment longer; whoever tidies up should not meet it.
            async with asyncio.timeout(CLEANUP_LIMIT):
                await child.wait()
            raise GcsError(f"{what} was not done after {time_limit:g} s and was killed") from None
        except BaseException:
            child.kill_group()
            raise

    def _decode(self, output: bytes, target: type[Any], command: str) -> Any:
        try:
            return msgspec.json.decode(output, type=looked_at(target))
        except msgspec.DecodeError as error:
            raise InvalidJsonError(f"{self._name} {command} wrote no such JSON: {error}") from error


def find_runtime() -> str:
    """Return the name of the runtime that is in PATH; of runc where there is none."""
    folders = os.environ.get("PATH", "").split(":")
    for name in RUNTIMES:
        if any(os.access(f"{folder}/{name}", os.X_OK) for folder in folders if folder):
            return name
    return RUNTIMES[0]


def _unmount_state(directory: str) -> None:
    """Unmount what a killed runc has left: for a moment it has itself mounted in its directory."""
    try:
        unmount_all_under(KernelMounts(), directory)
    except GcsError as error:
        logger.warning("files of the container runtime: %s", error)
