"""The running agent: start-up order, and how it ends (spec 4.12, 1.10)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal as signals
from typing import TYPE_CHECKING

from gcs import __version__
from gcs.bridge.bridge import Bridge
from gcs.bridge.redial import serve_forever
from gcs.transport import VsockTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcs.bridge.request import Handler
    from gcs.bridge.services import Services
    from gcs.kernel_log import KernelLog
    from gcs.logs import Logs
    from gcs.policy.stance import Policy
    from gcs.runtime.children import Children
    from gcs.runtime.host import Host
    from gcs.time_sync import TimeSync
    from gcs.transport import Transport

logger = logging.getLogger(__name__)

_INFORMATION = "/info"
_CORE_PATTERN = "/proc/sys/kernel/core_pattern"
#: What our PID 1 executes lives here, in our image and nowhere else.
_GUEST_PREFIX = "/usr/lib/gcs/"
_CONFIDENTIAL_DEVICES = ("/dev/sev", "/dev/sev-guest")
#: How long file systems may take to be written out before the machine is switched off (seconds).
_SYNC_SECONDS = 10.0
#: How long requests may take to be called off then: some wait for the kernel.
_CANCEL_SECONDS = 5.0


class Options:
    """What the command line decides.

    Attributes:
        transport: How the host is reached.
        runtime: Name or path of the container runtime; empty: the one that is there.
        policy: In force until a host sets another.
        answer_requests: Know any request at all.
        use_standard_streams: Serve descriptors 0 and 1, once, instead of dialling.
        core_pattern: Kernel's pattern for core files; empty leaves it as it is.
        hold_seconds: See :class:`gcs.bridge.bridge.Bridge`.
        memory_reserve: Memory of the VM that containers can't use, in bytes.
        memory_warning: Memory used by the agent that is worth a warning, in bytes.
        kernel_log_priority: Least important of the kernel's messages that are forwarded, 0 to 7.
        synchronise_time: Follow the host's clock.
    """

    __slots__ = (
        "answer_requests",
        "core_pattern",
        "hold_seconds",
        "kernel_log_priority",
        "memory_reserve",
        "memory_warning",
        "policy",
        "runtime",
        "synchronise_time",
        "transport",
        "use_standard_streams",
    )

    def __init__(
        self,
        *,
        transport: Transport,
        runtime: str,
        policy: Policy,
        answer_requests: bool,
        use_standard_streams: bool,
        core_pattern: str,
        hold_seconds: float,
        memory_reserve: int,
        memory_warning: int,
        kernel_log_priority: int,
        synchronise_time: bool,
    ) -> None:
        self.transport = transport
        self.runtime = runtime
        self.policy = policy
        self.answer_requests = answer_requests
        self.use_standard_streams = use_standard_streams
        self.core_pattern = core_pattern
        self.hold_seconds = hold_seconds
        self.memory_reserve = memory_reserve
        self.memory_warning = memory_warning
        self.kernel_log_priority = kernel_log_priority
        self.synchronise_time = synchronise_time


class Agent:
    """The agent of one process.

    Args:
        options: From the command line.
        logs: The log, set up.
    """

    def __init__(self, options: Options, logs: Logs) -> None:
        self._options = options
        self._logs = logs
        self._ending: asyncio.Future[int] | None = None
        self._powering_off = False
        self._host: Host | None = None
        self._kernel_log: KernelLog | None = None
        self._time: TimeSync | None = None
        self._services: Services | None = None
        self._bridge: Bridge

    async def run(self) -> int:
        """Serve the host until there is a reason to end; return the exit status."""
        _end_of_imports()
        loop = asyncio.get_running_loop()
        streams = _take_standard_streams() if self._options.use_standard_streams else None
        self._logs.capture_output(loop)
        logger.info("GCS started", extra=_build())
        if self._options.core_pattern and not _write_core_pattern(self._options.core_pattern):
            return 1
        self._ending = loop.create_future()
        for number in (signals.SIGTERM, signals.SIGINT):
            loop.add_signal_handler(number, self._end, 0, f"signal {number.name}")
        self._bridge = Bridge(
            self._load,
            enabled=self._options.answer_requests,
            sequential=_is_confidential(),
            hold_seconds=self._options.hold_seconds,
            connection_changed=self._connection_changed,
        )
        serving = asyncio.create_task(self._serve(streams), name="serve")
        try:
            await asyncio.wait({serving, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            return self._ending.result() if self._ending.done() else serving.result()
        finally:
            serving.cancel()
            await asyncio.wait({serving})
            await self._finish()

    async def _serve(self, streams: tuple[int, int] | None) -> int:
        if streams is None:
            await serve_forever(self._bridge, self._options.transport)
        logger.info("bridge connected, serving", extra={"port": "standard input and output"})
        reason = await self._bridge.serve_descriptors(*streams)
        logger.info("bridge connection lost", extra={"error": reason})
        return 0

    def _load(self) -> tuple[Mapping[int, Handler], Services]:
        """Import and make everything behind the bridge; see Bridge."""
        gc.disable()
        try:
            from gcs.bridge.handlers import HANDLERS
            from gcs.bridge.services import Services
            from gcs.runtime.assembly import make_host
            from gcs.runtime.children import Children
            from gcs.runtime.memory import MemoryOptions
            from gcs.runtime.runc import Runc

            options = self._options
            memory = MemoryOptions(options.memory_reserve, options.memory_warning)
            in_vm = isinstance(options.transport, VsockTransport)
            if in_vm:
                # First of all: what the kernel has to say may explain what fails next.
                self._forward_kernel_log()
            children = Children()
            self._host = make_host(
                transport=options.transport,
                publish=self._bridge.publish,
                children=children,
                runtime=Runc(children, program=options.runtime),
                memory=memory if in_vm else None,
                open_door=self._open_door,
            )
            if in_vm and options.synchronise_time:
                self._synchronise_time(children)
            self._services = Services(self._host, self._options.policy, self._shut_down)
        except Exception:
            logger.critical("the agent can't start", exc_info=True)
            self._end(1, "it can't start")
            raise
        _end_of_imports()
        return HANDLERS, self._services

    def _forward_kernel_log(self) -> None:
        from gcs.kernel_log import KernelLog

        self._kernel_log = KernelLog(self._options.kernel_log_priority)
        self._kernel_log.start(asyncio.get_running_loop(), self._logs.descriptor)

    def _synchronise_time(self, children: Children) -> None:
        from gcs.time_sync import TimeSync

        self._time = TimeSync(children)
        self._time.start()

    def _connection_changed(self, connected: bool) -> None:
        """Tell the host object, which starts out as connected: it is made for the first host."""
        if self._host is not None:
            if connected:
                self._host.bridge_connected()
            else:
                self._host.bridge_lost()

    def _open_door(self) -> None:
        """Allow everything from now on, logging included (spec 9.2)."""
        from gcs.policy.stance import OpenDoor

        if self._services is not None:
            self._services.policy = OpenDoor()
        self._logs.handler.muted = False

    def _shut_down(self) -> None:
        self._powering_off = True
        self._end(0, "shutdown request")

    def _end(self, status: int, reason: str) -> None:
        logger.info("the agent ends", extra={"reason": reason})
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(status)

    async def _finish(self) -> None:
        if self._powering_off and may_power_off(self._options.transport):
            await self._power_off()
        await self._bridge.close()
        if self._time is not None:
            await self._time.close()
        if self._host is not None:
            await self._host.close()
        if self._kernel_log is not None:
            self._kernel_log.close()

    async def _power_off(self) -> None:
        """End the VM, whatever hangs."""
        from gcs.linux.power import power_off, write_out_file_systems

        await self._bridge.close(_CANCEL_SECONDS)
        if not await asyncio.to_thread(write_out_file_systems, _SYNC_SECONDS):
            logger.error("file systems could not be written out within %g s", _SYNC_SECONDS)
        logger.info("powering off")
        self._logs.close()
        await asyncio.to_thread(power_off)


def may_power_off(transport: Transport) -> bool:
    """Tell whether this machine is ours to be switched off.

    Only inside our image: the host must be reached by vsock, and a process above the agent must be
    of the image's prefix: PID 1, or an /init that a start-up script runs.  Anywhere else a shutdown
    request ends the agent and nothing more.
    """
    if not isinstance(transport, VsockTransport):
        return False
    pid = os.getppid()
    while pid:
        try:
            if os.readlink(f"/proc/{pid}/exe").startswith(_GUEST_PREFIX):
                return True
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(") ")[2].split()[1])
        except OSError:
            return False
    return False


def _end_of_imports() -> None:
    """Switch collecting garbage on, leaving out for ever what modules consist of."""
    gc.freeze()
    gc.enable()


def _is_confidential() -> bool:
    """Tell whether requests are to be carried out one at a time (spec 1.4)."""
    for device in _CONFIDENTIAL_DEVICES:
        try:
            os.stat(device)
        except FileNotFoundError:
            continue
        except OSError:
            return True
        else:
            return True
    return False


def _take_standard_streams() -> tuple[int, int]:
    """Return duplicates of descriptors 0 and 1 for the bridge, and keep all others off them."""
    streams = os.dup(0), os.dup(1)
    for descriptor in streams:
        os.set_blocking(descriptor, False)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.close(nothing)
    return streams


def _write_core_pattern(pattern: str) -> bool:
    """Tell the kernel where to put core files; a failure is logged, and ends the agent."""
    try:
        with open(_CORE_PATTERN, "w") as file:
            file.write(pattern)
    except OSError as error:
        fields = {"path": _CORE_PATTERN, "pattern": pattern, "error": error.strerror}
        logger.critical("-core-dump-location can't be set", extra=fields)
        return False
    return True


def _build() -> dict[str, str]:
    """Return what this agent was built from, as the image says (spec 8.2)."""
    build = {"version": __version__}
    for key in ("branch", "commit"):
        try:
            with open(f"{_INFORMATION}/gcs.{key}") as file:
                build[key] = file.read().strip()
        except OSError:
            build[key] = "unknown"
    return build
