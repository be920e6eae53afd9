"""Properties of a container, read from its control groups (spec 1.8, 4.10).

No runtime is started for them: hosts ask every few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.responses import ProcessDetails, Properties

if TYPE_CHECKING:
    from gcs.protocol.requests import PropertyQuery

logger = logging.getLogger(__name__)

PROCESS_LIST: Final = "ProcessList"
STATISTICS: Final = "Statistics"

_ROOT: Final = "/sys/fs/cgroup"
# Any of them lists all processes; on cgroup v1 a container is in all that exist.
_LISTING_CONTROLLERS: Final = ("pids", "memory", "cpu", "freezer", "systemd")
_NO_LIMIT: Final = 2**64 - 1
_TICK_NANOSECONDS: Final = 10_000_000


async def read_properties(cgroup: str, query: PropertyQuery) -> Properties:
    """Return what a query names; a type that is not known is left out, with a log line.

    Args:
        cgroup: Path of the container's control group below the root of the hierarchies.
        query: Types of properties.
    """
    properties = Properties()
    for name in query.property_types:
        if name == PROCESS_LIST:
            pids = await asyncio.to_thread(read_processes, cgroup)
            properties.process_list = [ProcessDetails(process_id=pid) for pid in pids]
        elif name == STATISTICS:
            properties.metrics = await asyncio.to_thread(read_metrics, cgroup)
        else:
            logger.warning("property type %r is not supported", name[:100])
    return properties


def read_processes(cgroup: str) -> list[int]:
    """Return the processes of a control group and of those below it; blocking."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(_directory(cgroup, *_LISTING_CONTROLLERS)):
        pids.update(int(line) for line in _read(directory, "cgroup.procs").split())
    return sorted(pids)


def read_metrics(cgroup: str) -> dict[str, Any]:
    """Return memory, cpu and pids of a control group in the form of cgroup v1 metrics; blocking.

    A file that does not exist counts as zero, as does everything of a group that is gone.
    """
    memory, cpu = _metrics_v2(cgroup) if _unified() else _metrics_v1(cgroup)
    pids = _directory(cgroup, "pids")
    return {
        "pids": {"current": _number(pids, "pids.current"), "limit": _number(pids, "pids.max", 0)},
        "cpu": cpu,
        "memory": memory,
    }


def _metrics_v1(cgroup: str) -> tuple[dict[str, Any], dict[str, Any]]:
    directory = _directory(cgroup, "memory")
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
    accounting = _directory(cgroup, "cpuacct")
    ticks = _table(accounting, "cpuacct.stat")
    throttling = _table(_directory(cgroup, "cpu"), "cpu.stat")
    usage = {
        "total": _number(accounting, "cpuacct.usage"),
        "kernel": ticks.get("system", 0) * _TICK_NANOSECONDS,
        "user": ticks.get("user", 0) * _TICK_NANOSECONDS,
    }
    return memory, _cpu(usage, throttling, throttling.get("throttled_time", 0))


def _metrics_v2(cgroup: str) -> tuple[dict[str, Any], dict[str, Any]]:
    directory = _directory(cgroup)
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


def _cpu(usage: dict[str, int], times: dict[str, int], throttled: int) -> dict[str, Any]:
    throttling = {
        "periods": times.get("nr_periods", 0),
        "throttled_periods": times.get("nr_throttled", 0),
        "throttled_time": throttled,
    }
    return {"usage": usage, "throttling": throttling}


def _unified() -> bool:
    return os.path.exists(f"{_ROOT}/cgroup.controllers")


def _directory(cgroup: str, *controllers: str) -> str:
    """Return the directory of a group, on cgroup v1 in the first hierarchy that there is."""
    if _unified():
        return _ROOT + cgroup
    for controller in controllers:
        directory = f"{_ROOT}/{controller}{cgroup}"
        if os.path.isdir(directory):
            return directory
    return f"{_ROOT}/{controllers[0]}{cgroup}"


def _read(directory: str, name: str) -> str:
    try:
        with open(f"{directory}/{name}", encoding="ascii") as file:
            return file.read()
    except OSError as error:
        # ENODEV: the group was removed after the file was opened.
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise


def _number(directory: str, name: str, unlimited: int = _NO_LIMIT) -> int:
    text = _read(directory, name).strip()
    return unlimited if text == "max" else int(text or 0)


def _table(directory: str, name: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(directory, name).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
