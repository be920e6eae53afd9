"""Many containers in several pods at once, and a host that is lost again and again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from uvm.pod import Pod
from uvm.spec import ContainerOptions, ProcessOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from uvm.container import Container, ScsiAddress
    from uvm.guest import Guest
    from uvm.recovery import RecoverableProcess

#: Half of the numbered lines, the others when there is a line on stdin, then a status of its own.
_SCRIPT = """
write() {{ while [ $i -lt $1 ]; do echo "line $i of {number}"; i=$((i+1)); done; }}
i=0; write {half}; read line; write {lines}; echo "end of {number}" >&2; exit {number}
"""


class Load:
    """Pods, and workloads that write numbered lines.

    guest: the VM's agent.
    layers: directories of the guest with the root file system.
    mark: begins the ids of all containers.
    containers: how many workloads each pod has.
    lines: how many each of them writes, an even number.
    scratches: disk or directory of each pod to write on; the layouts are those of both shims by
        turns.
    """

    def __init__(
        self,
        guest: Guest,
        layers: list[str],
        *,
        mark: str,
        containers: int,
        lines: int,
        scratches: Sequence[ScsiAddress | str],
    ) -> None:
        self._guest = guest
        self._mark = mark
        self._lines = lines
        self._pods = [
            Pod(
                guest,
                layers,
                layout="v2" if number % 2 else "v1",
                scratch=scratch,
                pod_id=self._id(number),
            )
            for number, scratch in enumerate(scratches)
        ]
        #: Workloads by their numbers, which are their exit codes.
        self._homes = {
            number: self._pods[number % len(scratches)]
            for number in range(1, len(scratches) * containers + 1)
        }
        self._news = asyncio.Condition()
        self._steps = self._losses = 0
        self.connections = 0

    async def run(self, losses: int) -> None:
        """Make everything, lose the host in the middle of it, check all results, remove it all.

        The losses are spread over creation, start and end of the workloads.
        """
        await asyncio.gather(*(pod.start() for pod in self._pods))
        async with asyncio.TaskGroup() as tasks:
            for number, pod in self._homes.items():
                tasks.create_task(self._live(pod, number))
            tasks.create_task(self._lose(losses))
        await asyncio.gather(*(pod.remove() for pod in self._pods))

    async def _lose(self, losses: int) -> None:
        steps = 3 * len(self._homes)
        for loss in range(1, losses + 1):
            await self._reached(loss * steps // (losses + 1))
            await self._guest.reconnect()
            async with self._news:
                self._losses += 1
                self._news.notify_all()

    async def _live(self, pod: Pod, number: int) -> None:
        script = _SCRIPT.format(number=number, half=self._lines // 2, lines=self._lines)
        options = ContainerOptions(ProcessOptions(("/bin/sh", "-c", script)))
        # The host asks for all of them at once; the agent decides how many runtimes run.
        workload = await pod.create(options, self._id(0x1000 + number))
        await self._step()
        process = await workload.start_recoverable(stdin=True)
        await self._step()
        # All of them run at once.
        await self._reached(2 * len(self._homes))
        urging = asyncio.create_task(self._urge(process))
        try:
            await self._check(workload, process, number)
        finally:
            urging.cancel()
        await self._step()

    async def _check(self, workload: Container, process: RecoverableProcess, number: int) -> None:
        completed = await process.collect()
        lines = "".join(f"line {line} of {number}\n" for line in range(self._lines))
        assert completed.stdout.decode() == lines
        assert (completed.exit_code, completed.stderr.decode()) == (number, f"end of {number}\n")
        assert (await workload.wait_exit()).container_id == workload.id
        assert process.stdout is not None
        self.connections += process.stdout.connections

    async def _urge(self, process: RecoverableProcess) -> None:
        """Send the line, and again after each loss: it may have been on its way."""
        assert process.stdin is not None
        while True:
            losses = self._losses
            with contextlib.suppress(OSError):
                await process.stdin.write(b"go\n")
            async with self._news:
                await self._news.wait_for(lambda: self._losses > losses)  # noqa: B023

    async def _step(self) -> None:
        async with self._news:
            self._steps += 1
            self._news.notify_all()

    async def _reached(self, steps: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._steps >= steps)

    def _id(self, number: int) -> str:
        return f"{self._mark}{number:0{64 - len(self._mark)}x}"
