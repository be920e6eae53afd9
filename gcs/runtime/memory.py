"""Memory of the VM: what containers may have, what the agent uses, and who ran out (spec 4.7).

The agent is protected in three ways.  Containers together can't have all of the memory; what is in
``/gcs`` is reclaimed last; and where memory runs out all the same, the agent and the programs of
the image above it are killed last (:mod:`gcs.linux.oom`).

What the agent starts for a host, the container runtime included, is in ``/gcs`` as well, as with
the reference: moving a process costs the kernel a grace period, during which nothing in the VM can
fork.  It has the ordinary score, so it goes before the agent, and the runtime takes turns
(:mod:`gcs.runtime.turns`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from gcs.cgroup.events import MemoryEvents
from gcs.cgroup.limits import pods_memory_limit, total_memory
from gcs.cgroup.memory_log import log_memory_event
from gcs.linux import oom, uevent
from gcs.linux.ancestors import ancestors, executable
from gcs.protocol.errors import GcsError, error_text
from gcs.protocol.message import Message
from gcs.runtime.pods.kind import PODS_CGROUP
from gcs.storage.driver import ResourceDriver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from gcs.cgroup.cgroup import Cgroup, CgroupManager
    from gcs.cgroup.events import MemoryWatch

logger = logging.getLogger(__name__)

AGENT_CGROUP: Final = "/gcs"
#: Seconds between two looks at the memory of the VM, to which a host can add some.
REFRESH_SECONDS: Final = 60.0
#: The kernel announces memory block by block: as long as that goes on the limit may wait (seconds).
_SETTLE_SECONDS: Final = 0.2
_MEMORY_DEVICES: Final = "/devices/system/memory/"
#: What the image executes lives here, and nothing else does.
_GUEST_PREFIX: Final = "/usr/lib/gcs/"


class MemoryOptions(NamedTuple):
    """What the command line decides (spec 7.3), in bytes.

    Attributes:
        reserve: What containers can't use.
        agent_limit: Usage of the agent that is worth a warning.
    """

    reserve: int
    agent_limit: int


class VmMemory:
    """The control groups ``/pods`` and ``/gcs`` of a VM, on the running loop.

    Args:
        cgroups: The control groups.
        options: See there.
        pods: Path of the first one.
        agent: Path of the second one.
        pid: The agent; by default this process.
        open_events: Announcements of the kernel; see :mod:`gcs.linux.uevent`.
    """

    def __init__(
        self,
        cgroups: CgroupManager,
        options: MemoryOptions,
        *,
        pods: str = PODS_CGROUP,
        agent: str = AGENT_CGROUP,
        pid: int | None = None,
        open_events: Callable[[], socket.socket] = uevent.open_socket,
    ) -> None:
        self._cgroups = cgroups
        self._options = options
        self._pods = cgroups.group(pods)
        self._agent = cgroups.group(agent)
        self._pid = os.getpid() if pid is None else pid
        self._open_announcements = open_events
        self._announcements: socket.socket | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._refused = ""
        self._events = MemoryEvents()
        self._watches: dict[str, MemoryWatch] = {}
        self._started = time.time_ns()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Make the control groups, enter the agent, and watch; a few short file operations.

        Raises:
            GcsError: The VM has too little memory, or the kernel refuses.
        """
        self._cgroups.prepare()
        self._pods.create()
        self.refresh()
        self._pods.protect_memory(0)
        self._agent.create()
        self._protect_agent()
        events, pods, agent = self._events, self._pods, self._agent
        limit = self._options.agent_limit
        self._watches[pods.path] = events.watch_oom(pods, self._report_pods)
        self._watches[agent.path] = events.watch_threshold(agent, limit, self._report_agent)
        self._listen()
        self._run(self._refresh_forever())

    def refresh(self) -> None:
        """Set the limit of all containers to the memory of the VM less the reserve; blocking.

        Raises:
            GcsError: Nothing would be left for them, or the kernel refuses.
        """
        limit = pods_memory_limit(total_memory(), self._options.reserve)
        if self._pods.set_memory_limit(limit):
            logger.info("memory limit of %s is %d bytes", self._pods.path, limit)

    def close(self) -> None:
        """Stop watching; the control groups stay, with their limits."""
        self._events.close()
        if self._settling is not None:
            self._settling.cancel()
        if self._announcements is not None:
            asyncio.get_running_loop().remove_reader(self._announcements)
            self._announcements.close()
            self._announcements = None
        for task in self._tasks:
            task.cancel()

    def _protect_agent(self) -> None:
        self._agent.protect_memory(min(self._options.agent_limit, self._options.reserve))
        self._agent.add_process(self._pid)
        if self._pid == os.getpid():
            try:
                oom.protect_this_process()
            except OSError as error:
                # Without CAP_SYS_RESOURCE; the limit of the containers still protects it.
                logger.warning("the kernel may kill the agent first: %s", error_text(error))
        for pid in ancestors(self._pid):
            if executable(pid).startswith(_GUEST_PREFIX):
                self._protect_ancestor(pid)

    def _protect_ancestor(self, pid: int) -> None:
        """Protect PID 1 or a relay; without that the VM is good enough."""
        try:
            oom.set_score(pid, oom.PROTECTED)
            self._agent.add_process(pid)
        except (OSError, GcsError) as error:
            text = "process %d, above the agent, is not protected: %s"
            logger.warning(text, pid, error_text(error))

    def _listen(self) -> None:
        """Have the kernel tell of memory that the host adds."""
        try:
            self._announcements = self._open_announcements()
        except OSError as error:
            text = "memory that is added is noticed after %g s at the latest: %s"
            logger.warning(text, REFRESH_SECONDS, error_text(error))
            return
        asyncio.get_running_loop().add_reader(self._announcements, self._on_announcements)

    def _on_announcements(self) -> None:
        assert self._announcements is not None
        for announced in uevent.read_announcements(self._announcements):
            if (not announced or _MEMORY_DEVICES in announced) and self._settling is None:
                loop = asyncio.get_running_loop()
                self._settling = loop.call_later(_SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._run(self._try_to_refresh())

    def _report_pods(self, _: int) -> None:
        self._log(self._pods, self._pods.memory_limit)

    def _report_agent(self, _: int) -> None:
        self._log(self._agent, lambda: self._options.agent_limit)

    def _log(self, group: Cgroup, threshold: Callable[[], int]) -> None:
        count = self._watches[group.path].count

        async def write() -> None:
            limit = await asyncio.to_thread(threshold)
            await log_memory_event(group, threshold=limit, count=count, started=self._started)

        self._run(write())

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._try_to_refresh()

    async def _try_to_refresh(self) -> None:
        """Refresh; why that can't be done is logged once, not each minute."""
        refused = ""
        try:
            await asyncio.to_thread(self.refresh)
        except GcsError as error:
            refused = str(error)
            if refused != self._refused:
                logger.warning("memory of containers: %s", error)
        self._refused = refused


class PodMemoryDriver(ResourceDriver[Message]):
    """The request to have a look at the memory of the VM now (spec 3.11).

    Args:
        memory: The control groups; ``None``: this machine's memory is not the agent's to limit.
    """

    def __init__(self, memory: VmMemory | None) -> None:
        self._memory = memory

    async def update(self, settings: Message) -> None:
        """Recompute the limit.

        Raises:
            GcsError: See :meth:`VmMemory.refresh`; or the agent runs outside a VM.
        """
        if self._memory is None:
            raise GcsError(
                "this agent was not started as that of a VM (-transport vsock), so it leaves the "
                "memory of the machine alone"
            )
        await asyncio.to_thread(self._memory.refresh)
