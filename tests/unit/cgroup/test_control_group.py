"""Metrics from files of either cgroup version (spec 1.8)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup.group import ControlGroup

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_version_2(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cgroup.controllers": "cpu memory pids\n",
            "pods/c/cgroup.procs": "30\n4\n",
            "pods/c/below/cgroup.procs": "5\n",
            "pods/c/memory.current": "1000\n",
            "pods/c/memory.max": "max\n",
            "pods/c/memory.peak": "2000\n",
            "pods/c/memory.stat": "anon 300\nfile 400\n",
            "pods/c/cpu.stat": "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods 9\n"
            "nr_throttled 1\nthrottled_usec 3\n",
            "pods/c/pids.current": "3\n",
            "pods/c/pids.max": "max\n",
        },
    )
    group = ControlGroup("/pods/c", os.fspath(tmp_path))
    assert group.processes() == [4, 5, 30]
    assert group.metrics() == {
        "pids": {"current": 3, "limit": 0},
        "cpu": {
            "usage": {"total": 7000, "user": 5000, "kernel": 2000},
            "throttling": {"periods": 9, "throttled_periods": 1, "throttled_time": 3000},
        },
        "memory": {
            "cache": 400,
            "rss": 300,
            "hierarchical_memory_limit": 2**64 - 1,
            "usage": {"limit": 2**64 - 1, "usage": 1000, "max": 2000},
        },
    }


def test_version_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "pids/pods/c/cgroup.procs": "4\n",
            "pids/pods/c/pids.current": "1\n",
            "pids/pods/c/pids.max": "64\n",
            "memory/pods/c/memory.usage_in_bytes": "1000\n",
            "memory/pods/c/memory.limit_in_bytes": "5000\n",
            "memory/pods/c/memory.max_usage_in_bytes": "2000\n",
            "memory/pods/c/memory.failcnt": "6\n",
            "memory/pods/c/memory.stat": "cache 400\nrss 300\nhierarchical_memory_limit 4500\n",
            "cpuacct/pods/c/cpuacct.usage": "7000\n",
            "cpuacct/pods/c/cpuacct.stat": "user 2\nsystem 1\n",
            "cpu/pods/c/cpu.stat": "nr_periods 9\nnr_throttled 1\nthrottled_time 3000\n",
        },
    )
    group = ControlGroup("/pods/c", os.fspath(tmp_path))
    assert group.processes() == [4]
    assert group.metrics() == {
        "pids": {"current": 1, "limit": 64},
        "cpu": {
            "usage": {"total": 7000, "user": 20_000_000, "kernel": 10_000_000},
            "throttling": {"periods": 9, "throttled_periods": 1, "throttled_time": 3000},
        },
        "memory": {
            "cache": 400,
            "rss": 300,
            "hierarchical_memory_limit": 4500,
            "usage": {"limit": 5000, "usage": 1000, "max": 2000, "failcnt": 6},
        },
    }


def test_group_that_is_gone(tmp_path: Path) -> None:
    group = ControlGroup("/pods/c", os.fspath(tmp_path))
    assert group.processes() == []
    assert group.metrics()["memory"]["usage"]["usage"] == 0


@pytest.mark.parametrize("path", ["", "/", "//", "pods/c"])
def test_path_that_is_none(path: str) -> None:
    with pytest.raises(ValueError, match="no path of a control group"):
        ControlGroup(path)
