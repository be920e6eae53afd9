"""What control groups of both versions have in common (spec 4.7)."""

from __future__ import annotations

import logging
import os
import signal as signals
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gcs.cgroup.files import CgroupGoneError, read_text, write_text
from gcs.cgroup.metrics import cut_for_host
from gcs.linux.pidfd import open_pidfd, send_signal
from gcs.protocol.errors import GcsError, InvalidArgumentError, error_text

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

#: Seconds a group may stay busy after its last process was killed or has ended.
BUSY_LIMIT: Final = 10.0
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class Cgroup(ABC):
    """One control group, which need not exist; all methods block, for a few milliseconds at most.

    Made by :meth:`CgroupManager.group`.  Methods raise :class:`CgroupGoneError` when the group
    does not exist, and GcsError naming the file when the kernel refuses.

    Attributes:
        path: Below the root of the hierarchies, such as ``/pods/<id>``.
    """

    __slots__ = ("path",)

    #: ``v1`` or ``v2``.
    version: ClassVar[str]

    def __init__(self, path: str) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<cgroup {self.version} {self.path}>"

    # --- what differs between the versions ------------------------------------------------------

    @abstractmethod
    def directories(self) -> list[str]:
        """Return the directories of the group, in all hierarchies, whether they exist or not."""

    @abstractmethod
    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """Make the group and those above it, unless they exist, and apply limits.

        Args:
            resources: OCI LinuxResources; see :meth:`apply`.

        Raises:
            GcsError: Nothing that was made is left.
        """

    @abstractmethod
    def apply(self, resources: Mapping[str, Any] | None) -> None:
        """Set the limits that OCI LinuxResources name, if any; see :mod:`gcs.cgroup.resources`.

        Raises:
            GcsError: InvalidJsonError or InvalidArgumentError for a bad value, GcsError naming
                the file for one that the kernel refuses.
        """

    @abstractmethod
    def read_metrics(self) -> dict[str, Any]:
        """Return all there is to know, in the form of cgroup v1 metrics (spec 1.8)."""

    @abstractmethod
    def memory_limit(self) -> int:
        """Return the memory limit in bytes, 2^64-1 for none."""

    @abstractmethod
    def _write_memory_limit(self, limit: int) -> None:
        """Set the memory limit."""

    @abstractmethod
    def protect_memory(self, size: int) -> None:
        """Keep so much memory from being reclaimed, as long as others have more than is theirs.

        Version 2 keeps it in any case.  Version 1 only takes what a group has above it before
        anything else, so there the groups that are to give way need a size of 0.

        Args:
            size: In bytes.

        Raises:
            GcsError: See :meth:`set_memory_limit`.
        """

    @abstractmethod
    def memory_usage(self) -> int:
        """Return the memory in use, in bytes; 0 without the controller."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many processes of it, and of groups below, the kernel killed for memory.

        To be asked before the group is removed; 0 when it is gone, or without the controller.
        """

    @abstractmethod
    def memory_directory(self) -> str:
        """Return the directory with the files of the memory controller.

        Raises:
            GcsError: On cgroup v1, the controller is not mounted.
        """

    @abstractmethod
    def _process_directory(self) -> str:
        """Return the directory whose lists of processes are complete."""

    @abstractmethod
    def _kill_at_once(self) -> bool:
        """Have the kernel kill all processes, or at least prepare that; whether it did."""

    # --- what they have in common ---------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether the group exists, in any hierarchy."""
        return any(map(os.path.isdir, self.directories()))

    def require(self) -> None:
        """Check that the group exists.

        Raises:
            CgroupGoneError: It doesn't.
        """
        if not self.exists():
            raise CgroupGoneError(f"control group {self.path} does not exist (any more)")

    def metrics(self) -> dict[str, Any]:
        """Return the metrics as they are sent to a host (spec 1.8)."""
        return cut_for_host(self.read_metrics())

    def process_ids(self) -> list[int]:
        """Return the processes of the group and of the groups below, in ascending order.

        A group that is gone has none.
        """
        pids: set[int] = set()
        for directory, _, _ in os.walk(self._process_directory()):
            pids.update(map(int, read_text(f"{directory}/cgroup.procs").split()))
        pids.discard(0)  # a process of a PID namespace that is out of sight
        return sorted(pids)

    def add_process(self, pid: int) -> None:
        """Move a process, with all its threads, into the group, unless it is there.

        Moving costs the kernel a grace period, in which nothing can fork.

        Raises:
            GcsError: There is no such process, or no such group.
        """
        self.require()
        for directory in filter(os.path.isdir, self.directories()):
            path = f"{directory}/cgroup.procs"
            if str(pid) not in read_text(path).split():
                self._write(path, str(pid), f"adding process {pid}")

    def set_memory_limit(self, limit: int) -> bool:
        """Set the memory limit, unless it is in force already.

        Args:
            limit: In bytes; the kernel rounds down to whole pages.

        Returns:
            Whether it had to be changed.

        Raises:
            GcsError: Without the controller; on cgroup v1 also when more is in use than could be
                reclaimed.
        """
        page = os.sysconf("SC_PAGE_SIZE")
        self.require()
        if self.memory_limit() // page == limit // page:
            return False
        self._write_memory_limit(limit)
        return True

    def kill(self) -> None:
        """Kill every process in the group and below; some may take a moment to disappear."""
        if self._kill_at_once():
            return
        with ExitStack() as opened:
            held = []
            for pid in self.process_ids():
                with suppress(ProcessLookupError):
                    pidfd = open_pidfd(pid)
                    opened.callback(os.close, pidfd)
                    held.append((pid, pidfd))
            # Who is still listed had its number when it was opened: nobody else is hit.
            listed = frozenset(self.process_ids())
            for pid, pidfd in held:
                if pid in listed:
                    with suppress(ProcessLookupError):
                        send_signal(pidfd, signals.SIGKILL)

    def delete(self, *, kill: bool = False, limit: float = BUSY_LIMIT) -> None:
        """Remove the group and all below it; one that is gone already is fine.

        Args:
            kill: Kill what is left in it.
            limit: Seconds to try for, as the ended keep a group busy for a moment.

        Raises:
            GcsError: It is still busy; the message names the processes.
        """
        deadline = time.monotonic() + limit
        pause = _FIRST_PAUSE
        while True:
            if kill:
                self.kill()
            error = self._try_to_remove()
            if error is None:
                return
            if time.monotonic() >= deadline:
                raise self._still_busy(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try_to_remove(self) -> OSError | None:
        failure = None
        for directory in self.directories():
            for path, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failure = error
        return failure

    def _still_busy(self, error: OSError) -> GcsError:
        pids = self.process_ids()
        listed = ", ".join(map(str, pids[:20])) + (", …" if len(pids) > 20 else "")
        reason = f"processes {listed} are in it" if pids else error.strerror
        return GcsError(f"control group {self.path} can't be removed: {reason}")

    def _write(self, path: str, value: str, what: str) -> None:
        try:
            write_text(path, value)
        except OSError as error:
            self.require()
            text = error_text(error)
            raise GcsError(f"control group {self.path}: {what}: {text}") from error


class CgroupManager(ABC):
    """The hierarchies of one version; see :func:`gcs.cgroup.detect`.

    Attributes:
        root: Where they are mounted.
    """

    __slots__ = ("root",)

    #: ``v1`` or ``v2``.
    version: ClassVar[str]

    def __init__(self, root: str) -> None:
        self.root = root

    @abstractmethod
    def prepare(self) -> None:
        """Make limits hold for whole trees; to be called once, before groups are made.

        Raises:
            GcsError: The kernel refuses.
        """

    @abstractmethod
    def _group(self, path: str) -> Cgroup:
        """Return a group whose path is good."""

    def group(self, path: str) -> Cgroup:
        """Return a group, which need not exist.

        Args:
            path: Absolute, below the root of the hierarchies, such as ``/pods/<id>``.

        Raises:
            InvalidArgumentError: The path can't be that of a group, or is that of the root.
        """
        parts = path.split("/")
        if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
            raise InvalidArgumentError(f"{path!r} can't be the path of a control group")
        return self._group(path)


def warn_of_io_weight(path: str, weight: int) -> None:
    """Log that block I/O of a group has no weight: a preference, which is no reason to fail."""
    text = "control group %s: the kernel has no weights of block I/O; %d is ignored"
    logger.warning(text, path, weight)
