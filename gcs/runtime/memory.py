"""Memory of the VM: what containers may have, what the agent uses, and who ran out (spec 4.7)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from gcs.cgroup.events import MemoryEvents
from gcs.cgroup.limits import pods_memory_limit, total_memory
from gcs.cgroup.memory_log import log_memory_event
from gcs.protocol.errors import GcsError
from gcs.protocol.requests import Message
from gcs.runtime.pods.kind import PODS_CGROUP
from gcs.storage.driver import ResourceDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gcs.cgroup.cgroup import Cgroup, CgroupManager

logger = logging.getLogger(__name__)

AGENT_CGROUP: Final = "/gcs"
#: Seconds between two looks at the memory of the VM, to which a host can add some.
REFRESH_SECONDS: Final = 60.0


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
    """

    def __init__(
        self,
        cgroups: CgroupManager,
        options: MemoryOptions,
        *,
        pods: str = PODS_CGROUP,
        agent: str = AGENT_CGROUP,
        pid: int | None = None,
    ) -> None:
        self._cgroups = cgroups
        self._options = options
        self._pods = cgroups.group(pods)
        self._agent = cgroups.group(agent)
        self._pid = os.getpid() if pid is None else pid
        self._events = MemoryEvents()
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
        self._agent.create()
        self._agent.add_process(self._pid)
        self._events.watch_oom(self._pods, self._report_pods)
        self._events.watch_threshold(self._agent, self._options.agent_limit, self._report_agent)
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
        for task in self._tasks:
            task.cancel()

    def _report_pods(self, kills: int) -> None:
        self._log(self._pods, self._pods.memory_limit, kills)

    def _report_agent(self, _: int) -> None:
        self._log(self._agent, lambda: self._options.agent_limit, 1)

    def _log(self, group: Cgroup, threshold: Callable[[], int], count: int) -> None:
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
            try:
                await asyncio.to_thread(self.refresh)
            except GcsError as error:
                logger.warning("memory of containers: %s", error)


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
