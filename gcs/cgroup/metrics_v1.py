"""Metrics of the cgroup v1 directories of a group (spec 1.8)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from gcs.cgroup.files import parse_number, read_number, read_table, read_text
from gcs.cgroup.metrics import omit_empty, read_rdma

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Field of the metrics: counter of memory.stat.  Each has one with the prefix `total_`, too.
_COUNTERS: Final = {
    "cache": "cache",
    "rss": "rss",
    "rss_huge": "rss_huge",
    "mapped_file": "mapped_file",
    "dirty": "dirty",
    "writeback": "writeback",
    "pg_pg_in": "pgpgin",
    "pg_pg_out": "pgpgout",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
_ENTRIES: Final = {
    "usage": "memory",
    "swap": "memory.memsw",
    "kernel": "memory.kmem",
    "kernel_tcp": "memory.kmem.tcp",
}
_ENTRY_FILES: Final = {
    "limit": "limit_in_bytes",
    "usage": "usage_in_bytes",
    "max": "max_usage_in_bytes",
    "failcnt": "failcnt",
}
_IO: Final = {
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio.throttle.io_serviced_recursive",
}


def read_metrics(directories: Mapping[str, str], page_sizes: Iterable[str]) -> dict[str, Any]:
    """Return all metrics of a group.

    Args:
        directories: Of the group, by controller; those of other controllers are left out.
        page_sizes: Names of the sizes of huge pages.
    """
    metrics: dict[str, Any] = {}
    if "hugetlb" in directories:
        metrics["hugetlb"] = [_hugetlb(directories["hugetlb"], size) for size in page_sizes]
    if "pids" in directories:
        metrics["pids"] = _pids(directories["pids"])
    metrics["cpu"] = {
        "usage": _cpu_usage(directories.get("cpuacct", "")),
        "throttling": _throttling(directories.get("cpu", "")),
    }
    if "memory" in directories:
        metrics["memory"] = _memory(directories["memory"])
        oom = read_table(f"{directories['memory']}/memory.oom_control")
        keys = ("oom_kill_disable", "under_oom", "oom_kill")
        metrics["memory_oom_control"] = {key: oom.get(key, 0) for key in keys}
    if "blkio" in directories:
        directory = directories["blkio"]
        metrics["blkio"] = {
            array: parse_block_io(read_text(f"{directory}/{name}")) for array, name in _IO.items()
        }
    if "rdma" in directories:
        metrics["rdma"] = read_rdma(directories["rdma"])
    return omit_empty(metrics)


def _memory(directory: str) -> dict[str, Any]:
    counters = read_table(f"{directory}/memory.stat")
    memory: dict[str, Any] = {}
    for field, counter in _COUNTERS.items():
        memory[field] = counters.get(counter, 0)
        memory[f"total_{field}"] = counters.get(f"total_{counter}", 0)
    memory["hierarchical_memory_limit"] = counters.get("hierarchical_memory_limit", 0)
    memory["hierarchical_swap_limit"] = counters.get("hierarchical_memsw_limit", 0)
    for field, prefix in _ENTRIES.items():
        memory[field] = {
            key: read_number(f"{directory}/{prefix}.{name}") for key, name in _ENTRY_FILES.items()
        }
    return memory


def _pids(directory: str) -> dict[str, int]:
    limit = read_text(f"{directory}/pids.max").strip()
    current = read_number(f"{directory}/pids.current")
    # Unlike in version 2, hosts know no limit as a missing one.
    return {"current": current, "limit": 0 if limit == "max" else parse_number(limit)}


def _cpu_usage(directory: str) -> dict[str, Any]:
    ticks = read_table(f"{directory}/cpuacct.stat")
    per_second = os.sysconf("SC_CLK_TCK")
    return {
        "total": read_number(f"{directory}/cpuacct.usage"),
        "kernel": ticks.get("system", 0) * 1_000_000_000 // per_second,
        "user": ticks.get("user", 0) * 1_000_000_000 // per_second,
        "per_cpu": [
            parse_number(text) for text in read_text(f"{directory}/cpuacct.usage_percpu").split()
        ],
    }


def _throttling(directory: str) -> dict[str, int]:
    times = read_table(f"{directory}/cpu.stat")
    return {
        "periods": times.get("nr_periods", 0),
        "throttled_periods": times.get("nr_throttled", 0),
        "throttled_time": times.get("throttled_time", 0),
    }


def _hugetlb(directory: str, size: str) -> dict[str, Any]:
    names = {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    entry: dict[str, Any] = {
        key: read_number(f"{directory}/hugetlb.{size}.{name}") for key, name in names.items()
    }
    entry["pagesize"] = size
    return entry


def parse_block_io(text: str) -> list[dict[str, Any]]:
    """Read lines such as ``8:0 Read 4096``; totals are left out."""
    entries = []
    for line in text.splitlines():
        fields = line.split()
        major, _, minor = fields[0].partition(":") if fields else ("", "", "")
        if len(fields) == 3 and major.isdecimal() and minor.isdecimal():
            entry: dict[str, Any] = {"op": fields[1], "major": int(major), "minor": int(minor)}
            entry["value"] = parse_number(fields[2])
            entries.append(entry)
    return entries
