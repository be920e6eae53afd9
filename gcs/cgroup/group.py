"""A control group of a container, in either version of cgroups (spec 1.8, 4.7)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal as signals
import time
from typing import Any, Final

# Any of them lists all processes; on cgroup v1 a container is in all that exist.
_LISTING_CONTROLLERS: Final = ("pids", "memory", "cpu", "freezer", "systemd")
_NO_LIMIT: Final = 2**64 - 1
_TICK_NANOSECONDS: Final = 10_000_000
_PAUSE: Final = 0.01


class ControlGroup:
    """Reads a control group of either version; methods block.

    A file that does not exist counts as empty or zero, as does everything of a group that is gone.

    Args:
        path: Below the root of the hierarchies, such as ``/pods/<container id>``.
        root: Where the hierarchies are mounted.

    Raises:
        ValueError: The path is that of the root, which nobody is to kill or remove.
    """

    __slots__ = ("_path", "_root", "_unified")

    def __init__(self, path: str, root: str = "/sys/fs/cgroup") -> None:
        if not path.startswith("/") or not path.strip("/"):
            raise ValueError(f"{path!r} is no path of a control group")
        self._path = path
        self._root = root
        self._unified = os.path.exists(f"{root}/cgroup.controllers")

    def processes(self) -> list[int]:
        """Return the processes of the group and of those below it."""
        pids: set[int] = set()
        for directory, _, _ in os.walk(self._directory(*_LISTING_CONTROLLERS)):
            pids.update(int(line) for line in _read(directory, "cgroup.procs").split())
        return sorted(pids)

    def metrics(self) -> dict[str, Any]:
        """Return memory, cpu and pids in the form of cgroup v1 metrics."""
        memory, cpu = self._metrics_v2() if self._unified else self._metrics_v1()
        directory = self._directory("pids")
        pids = {
            "current": _number(directory, "pids.current"),
            "limit": _number(directory, "pids.max", unlimited=0),
        }
        return {"pids": pids, "cpu": cpu, "memory": memory}

    def remove(self, seconds: float) -> None:
        """Kill all processes of the group and remove it, in all hierarchies.

        Args:
            seconds: How long the killed may take to disappear.

        Raises:
            OSError: One of its directories can't be removed (EBUSY: a process doesn't end).
        """
        deadline = time.monotonic() + seconds
        for directory in self._directories():
            while not self._try_to_remove(directory, last=time.monotonic() >= deadline):
                time.sleep(_PAUSE)

    def _try_to_remove(self, directory: str, *, last: bool) -> bool:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
        try:
            for path, _, _ in os.walk(directory, topdown=False):
                os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY or last:
                raise
            return False
        return True

    def _directories(self) -> list[str]:
        """Return the directories of the group that there are, each once."""
        if self._unified:
            candidates = [self._root + self._path]
        else:
            # Hierarchies of several controllers have a link for each of them.
            with os.scandir(self._root) as entries:
                names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            candidates = [name + self._path for name in names]
        return [path for path in candidates if os.path.isdir(path)]

    def _metrics_v1(self) -> tuple[dict[str, Any], dict[str, Any]]:
        directory = self._directory("memory")
        counters = _table(directory, "memory.stat")
        memory = {
            "cache": counters.get("cache", 0),
            "rss": counters.get("rss", 0),
            "hierarchical_memory_limit": counters.get("hierarchical_memory_limit", 0),
            "usage": {
                "limit": _number(directory, "memory.limit_in_bytes"),
                "usage": _number(directory, "memory.usage_in_bytes"),
                "max": _number(directory, "memory.max_usage_in_bytes"),
                "failcnt": _number(directory, "memory.failcnt"),
            },
        }
        accounting = self._directory("cpuacct")
        ticks = _table(accounting, "cpuacct.stat")
        throttling = _table(self._directory("cpu"), "cpu.stat")
        usage = {
            "total": _number(accounting, "cpuacct.usage"),
            "kernel": ticks.get("system", 0) * _TICK_NANOSECONDS,
            "user": ticks.get("user", 0) * _TICK_NANOSECONDS,
        }
        return memory, _cpu(usage, throttling, throttling.get("throttled_time", 0))

    def _metrics_v2(self) -> tuple[dict[str, Any], dict[str, Any]]:
        directory = self._directory()
        counters = _table(directory, "memory.stat")
        limit = _number(directory, "memory.max")
        memory = {
            "cache": counters.get("file", 0),
            "rss": counters.get("anon", 0),
            "hierarchical_memory_limit": limit,
            "usage": {
                "limit": limit,
                "usage": _number(directory, "memory.current"),
                "max": _number(directory, "memory.peak"),
            },
        }
        times = _table(directory, "cpu.stat")
        usage = {
            "total": times.get("usage_usec", 0) * 1000,
            "kernel": times.get("system_usec", 0) * 1000,
            "user": times.get("user_usec", 0) * 1000,
        }
        return memory, _cpu(usage, times, times.get("throttled_usec", 0) * 1000)

    def _directory(self, *controllers: str) -> str:
        """Return the directory of the group, on cgroup v1 in the first hierarchy there is."""
        if self._unified:
            return self._root + self._path
        candidates = [f"{self._root}/{controller}{self._path}" for controller in controllers]
        return next(filter(os.path.isdir, candidates), candidates[0])


def _cpu(usage: dict[str, int], times: dict[str, int], throttled: int) -> dict[str, Any]:
    throttling = {
        "periods": times.get("nr_periods", 0),
        "throttled_periods": times.get("nr_throttled", 0),
        "throttled_time": throttled,
    }
    return {"usage": usage, "throttling": throttling}


def _read(directory: str, name: str) -> str:
    try:
        with open(f"{directory}/{name}", encoding="ascii") as file:
            return file.read()
    except OSError as error:
        # ENODEV: the group was removed after the file was opened.
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise


def _number(directory: str, name: str, *, unlimited: int = _NO_LIMIT) -> int:
    text = _read(directory, name).strip()
    return unlimited if text == "max" else int(text or 0)


def _table(directory: str, name: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(directory, name).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
