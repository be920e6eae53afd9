"""Metrics of a cgroup v2 directory, converted to those of v1 by the table of spec 1.8.

More than the reference has (oddity 53): page sizes and failures of huge pages, huge anonymous
memory, and the `total_*` counters, which are the same as those without the prefix because every
counter of version 2 includes the groups below.  The kernel has no times per CPU in version 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gcs.cgroup.files import parse_number, read_number, read_table, read_text
from gcs.cgroup.metrics import nanoseconds, omit_empty, read_rdma

if TYPE_CHECKING:
    from collections.abc import Iterable

# Field of the metrics: counter of memory.stat.
_COUNTERS: Final = {
    "cache": "file",
    "rss": "anon",
    "rss_huge": "anon_thp",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
# Keys of io.stat: array of the metrics, operation.
_IO: Final = (
    ("rbytes", "io_service_bytes_recursive", "Read"),
    ("wbytes", "io_service_bytes_recursive", "Write"),
    ("rios", "io_serviced_recursive", "Read"),
    ("wios", "io_serviced_recursive", "Write"),
)


def read_metrics(directory: str, page_sizes: Iterable[str]) -> dict[str, Any]:
    """Return all metrics of a group; what files don't say is zero, and left out.

    Args:
        directory: Of the group.
        page_sizes: Names of the sizes of huge pages.
    """
    metrics: dict[str, Any] = {
        "hugetlb": _hugetlb(directory, page_sizes),
        "pids": {
            "current": read_number(f"{directory}/pids.current"),
            "limit": read_number(f"{directory}/pids.max"),
        },
        "cpu": _cpu(read_table(f"{directory}/cpu.stat")),
        "memory": _memory(directory),
        "rdma": read_rdma(directory),
    }
    devices = parse_io(read_text(f"{directory}/io.stat"))
    if devices:
        metrics["blkio"] = devices
    events = read_table(f"{directory}/memory.events")
    if events:
        metrics["memory_oom_control"] = {"oom_kill": events.get("oom_kill", 0)}
    return omit_empty(metrics)


def _memory(directory: str) -> dict[str, Any]:
    counters = read_table(f"{directory}/memory.stat")
    memory: dict[str, Any] = {}
    for field, counter in _COUNTERS.items():
        memory[field] = memory[f"total_{field}"] = counters.get(counter, 0)
    usage, swap = (_entry(directory, name) for name in ("memory", "memory.swap"))
    return memory | {
        "hierarchical_memory_limit": usage["limit"],
        "hierarchical_swap_limit": swap["limit"],
        "usage": usage,
        "swap": swap,
        "kernel": {"usage": counters.get("kernel_stack", 0)},
        "kernel_tcp": {"usage": counters.get("sock", 0)},
    }


def _entry(directory: str, name: str) -> dict[str, int]:
    return {
        "limit": read_number(f"{directory}/{name}.max"),
        "usage": read_number(f"{directory}/{name}.current"),
        "max": read_number(f"{directory}/{name}.peak"),
    }


def _cpu(times: dict[str, int]) -> dict[str, Any]:
    return {
        "usage": {
            "total": nanoseconds(times.get("usage_usec", 0)),
            "kernel": nanoseconds(times.get("system_usec", 0)),
            "user": nanoseconds(times.get("user_usec", 0)),
        },
        "throttling": {
            "periods": times.get("nr_periods", 0),
            "throttled_periods": times.get("nr_throttled", 0),
            "throttled_time": nanoseconds(times.get("throttled_usec", 0)),
        },
    }


def _hugetlb(directory: str, page_sizes: Iterable[str]) -> list[dict[str, Any]]:
    entries = []
    for size in page_sizes:
        # The limit: the root of the hierarchy and groups without the controller have none.
        limit = read_text(f"{directory}/hugetlb.{size}.max")
        if limit:
            events = read_table(f"{directory}/hugetlb.{size}.events")
            entries.append(
                {
                    "usage": read_number(f"{directory}/hugetlb.{size}.current"),
                    "max": parse_number(limit),
                    "failcnt": events.get("max", 0),
                    "pagesize": size,
                }
            )
    return entries


def parse_io(text: str) -> dict[str, list[dict[str, Any]]]:
    """Read lines such as ``8:0 rbytes=90 wbytes=0 rios=3 wios=0 dbytes=0 dios=0``."""
    arrays: dict[str, list[dict[str, Any]]] = {}
    for line in text.splitlines():
        device, *pairs = line.split() or [""]
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if not (major.isdecimal() and minor.isdecimal() and values):
            continue
        for key, array, operation in _IO:
            entry = {"op": operation, "major": int(major), "minor": int(minor)}
            entry["value"] = parse_number(values.get(key, ""))
            arrays.setdefault(array, []).append(entry)
    return arrays
