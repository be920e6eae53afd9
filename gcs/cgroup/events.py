"""Memory events: processes killed for want of memory, and usage above a threshold (spec 4.7).

The kernel tells by inotify on ``memory.events`` (v2) or by an eventfd registered in
``cgroup.event_control`` (v1).  Only for a threshold of usage version 2 has no event, other than
that of ``memory.high``, which would slow the group down: there usage is looked at now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from gcs.cgroup.files import write_text
from gcs.linux import inotify
from gcs.protocol.errors import GcsError, error_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs.cgroup.cgroup import Cgroup

logger = logging.getLogger(__name__)

#: Seconds between looks at the usage, where the kernel has no event for it.
LOOK_PERIOD: Final = 15.0
# Version 1 tells when memory runs out, a moment before a process is chosen and killed; and it
# tells the groups below, too, in which perhaps none is.
_KILL_PAUSES: Final = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
# Version 1 tells that a threshold was passed, by a count that runs ahead of the usage: what is in
# use may still be less, or be so again for a moment, and no other event comes when it rises on.
_USAGE_PAUSES: Final = (0.0, 0.05, 0.25, 1.0)


class MemoryWatch(ABC):
    """What is watched, until it is closed or the group is gone.

    Attributes:
        group: The control group.
        count: How many events were reported.
        closed: Whether it has ended.
    """

    def __init__(self, group: Cgroup, report: Callable[[int], object]) -> None:
        self.group = group
        self.count = 0
        self.closed = False
        self._report = report
        self._undo = contextlib.ExitStack()
        self._task: asyncio.Task[None] | None = None
        self._woken = False

    def close(self) -> None:
        """Stop; nothing is reported any more."""
        self.closed = True
        self._undo.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def wake(self) -> None:
        """Look, in a task, whether something has happened."""
        self._woken = True
        if self._task is None and not self.closed:
            name = f"memory events of {self.group.path}"
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    async def _run(self) -> None:
        try:
            while self._woken and not self.closed:
                self._woken = False
                await self._look()
                if not await asyncio.to_thread(self.group.exists):
                    self.close()
        except GcsError as error:
            # Groups come and go; any other error is one.
            if self.group.exists():
                logger.error("memory events of cgroup %s end: %s", self.group.path, error)
            self.close()
        finally:
            self._task = None

    def _tell(self, value: int) -> None:
        self.count += 1
        self._report(value)

    @abstractmethod
    async def _look(self) -> None:
        """Report what is new."""


class OomWatch(MemoryWatch):
    """Watches for processes that are killed for want of memory."""

    def __init__(self, group: Cgroup, report: Callable[[int], object]) -> None:
        super().__init__(group, report)
        self._kills = group.oom_kills()
        self._pauses = _KILL_PAUSES if group.version == "v1" else _KILL_PAUSES[:1]

    def arm(self, files: _FileEvents) -> None:
        """Have the kernel wake it."""
        directory = self.group.memory_directory()
        if self.group.version == "v1":
            self._undo.callback(_register(directory, "memory.oom_control", "", self.wake))
        else:
            self._undo.callback(files.add(f"{directory}/memory.events", self.wake))
        self.wake()  # for what happened before it was armed

    async def _look(self) -> None:
        for pause in self._pauses:
            await asyncio.sleep(pause)
            kills = await asyncio.to_thread(self._measure)
            if kills is None:
                return
            if kills > self._kills:
                self._kills = kills
                self._tell(kills)
                return

    def _measure(self) -> int | None:
        return self.group.oom_kills() if self.group.exists() else None


class ThresholdWatch(MemoryWatch):
    """Watches for usage that rises above a threshold.

    Attributes:
        threshold: In bytes.
    """

    def __init__(self, group: Cgroup, threshold: int, report: Callable[[int], object]) -> None:
        super().__init__(group, report)
        self.threshold = threshold
        self._above = False
        self._pauses = _USAGE_PAUSES if group.version == "v1" else _USAGE_PAUSES[:1]
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, period: float) -> None:
        """Have the kernel wake it, or a timer after each period of seconds."""
        directory, argument = self.group.memory_directory(), str(self.threshold)
        if self.group.version == "v1":
            self._undo.callback(_register(directory, "memory.usage_in_bytes", argument, self.wake))
            self.wake()
        else:
            self._undo.callback(self._stop)
            self._tick(period)

    def _tick(self, period: float) -> None:
        self.wake()
        self._timer = asyncio.get_running_loop().call_later(period, self._tick, period)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _look(self) -> None:
        was_above = self._above
        for pause in self._pauses:
            await asyncio.sleep(pause)
            usage = await asyncio.to_thread(self.group.memory_usage)
            self._above = usage > self.threshold
            if self._above:
                break
        if self._above and not was_above:
            self._tell(usage)


class MemoryEvents:
    """Watches groups; belongs to the event loop it is used on."""

    def __init__(self) -> None:
        self._files = _FileEvents()
        self._watches: list[MemoryWatch] = []

    def watch_oom(self, group: Cgroup, report: Callable[[int], object]) -> MemoryWatch:
        """Report kills for want of memory from now on, in the group and below.

        Watchers on cgroup v2 are not told that a group is removed: close the watch then.
        On cgroup v1 a limit of a group below does not count: only the group whose limit was hit,
        and those in it, are told.

        Args:
            group: Must exist.
            report: Called on the loop with the number of processes killed so far.

        Raises:
            GcsError: The group does not exist, or has no memory controller.
        """
        watch = OomWatch(group, report)
        return self._start(watch, lambda: watch.arm(self._files))

    def watch_threshold(
        self,
        group: Cgroup,
        threshold: int,
        report: Callable[[int], object],
        *,
        period: float = LOOK_PERIOD,
    ) -> MemoryWatch:
        """Report that the usage has risen above a threshold; again after it was below.

        Args:
            group: Must exist.
            threshold: In bytes.
            report: Called on the loop with the bytes in use.
            period: Seconds between looks, on cgroup v2.

        Raises:
            GcsError: The group does not exist, or has no memory controller.
        """
        watch = ThresholdWatch(group, threshold, report)
        return self._start(watch, lambda: watch.arm(period))

    def close(self) -> None:
        """Stop watching anything."""
        for watch in self._watches:
            watch.close()
        self._watches.clear()
        self._files.close()

    def _start(self, watch: MemoryWatch, arm: Callable[[], None]) -> MemoryWatch:
        watch.group.require()
        try:
            arm()
        except OSError as error:
            watch.close()
            path = watch.group.path
            text = f"memory events of cgroup {path} can't be watched: {error_text(error)}"
            raise GcsError(text) from error
        self._watches = [other for other in self._watches if not other.closed]
        self._watches.append(watch)
        return watch


class _FileEvents:
    """Files watched by one inotify descriptor, of which a process can't have many."""

    def __init__(self) -> None:
        self._descriptor = -1
        # The kernel has one watch for a file, however often it is added.
        self._wakes: dict[int, list[Callable[[], None]]] = {}

    def add(self, path: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called when the file changes; return what ends that."""
        if self._descriptor < 0:
            self._descriptor = inotify.open_inotify()
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        watch = inotify.add_watch(self._descriptor, path, inotify.IN_MODIFY)
        self._wakes.setdefault(watch, []).append(wake)
        return lambda: self._remove(watch, wake)

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._wakes.clear()

    def _remove(self, watch: int, wake: Callable[[], None]) -> None:
        wakes = self._wakes.get(watch, [])
        if wake in wakes:
            wakes.remove(wake)
            if not wakes:
                del self._wakes[watch]
                inotify.remove_watch(self._descriptor, watch)

    def _read(self) -> None:
        for watch, mask in inotify.read_events(self._descriptor):
            if mask & inotify.IN_Q_OVERFLOW:
                wakes = [wake for known in self._wakes.values() for wake in known]
            elif mask & inotify.IN_IGNORED:
                wakes = self._wakes.pop(watch, [])
            else:
                wakes = self._wakes.get(watch, [])
            for wake in wakes:
                wake()


def _register(
    directory: str, name: str, argument: str, wake: Callable[[], None]
) -> Callable[[], None]:
    """Have `wake` called for events of a file of cgroup v1; return what ends that."""
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        file = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            control = f"{eventfd} {file} {argument}".rstrip()
            write_text(f"{directory}/cgroup.event_control", control)
        finally:
            os.close(file)
        loop = asyncio.get_running_loop()
        loop.add_reader(eventfd, _on_eventfd, eventfd, wake)
    except BaseException:
        os.close(eventfd)
        raise

    def end() -> None:
        loop.remove_reader(eventfd)
        os.close(eventfd)

    return end


def _on_eventfd(eventfd: int, wake: Callable[[], None]) -> None:
    os.eventfd_read(eventfd)
    wake()
