"""Statistics in the form a host expects, from files of both versions (spec 1.8, 10.4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gcs.cgroup.files import CgroupGoneError
from gcs.cgroup.metrics import cut_for_host, omit_empty, parse_rdma
from gcs.cgroup.metrics_v1 import parse_block_io
from gcs.cgroup.metrics_v2 import parse_io
from gcs.cgroup.v1 import V1Manager
from gcs.cgroup.v2 import V2Manager
from tests.support.cgroup_trees import V1, V2, plant

if TYPE_CHECKING:
    from pathlib import Path

    from gcs.cgroup.cgroup import Cgroup

MAX = 2**64 - 1
PAGE_SIZES = ["2MB", "1GB"]
V2_COUNTERS = {
    "cache": 688128,
    "rss": 45056,
    "rss_huge": 2097152,
    "mapped_file": 634880,
    "dirty": 8192,
    "writeback": 4096,
    "pg_fault": 656,
    "pg_maj_fault": 5,
    "inactive_anon": 40960,
    "active_anon": 4096,
    "inactive_file": 675840,
    "active_file": 12288,
    "unevictable": 100,
}


def v2_group(root: Path, files: dict[str, str]) -> Cgroup:
    return V2Manager(plant(root, files), PAGE_SIZES).group("/pods/c")


def v1_group(root: Path, files: dict[str, str]) -> Cgroup:
    return V1Manager(plant(root, files), PAGE_SIZES).group("/pods/c")


@pytest.fixture
def v2(tmp_path: Path) -> dict[str, Any]:
    return v2_group(tmp_path, V2).read_metrics()


@pytest.fixture
def v1(tmp_path: Path) -> dict[str, Any]:
    return v1_group(tmp_path, V1).read_metrics()


# --- version 2 ----------------------------------------------------------------------------------


def test_v2_memory(v2: dict[str, Any]) -> None:
    assert v2["memory"] == {
        **V2_COUNTERS,
        **{f"total_{key}": value for key, value in V2_COUNTERS.items()},
        "hierarchical_memory_limit": MAX,
        "hierarchical_swap_limit": 1048576,
        "usage": {"limit": MAX, "usage": 999424, "max": 12840960},
        "swap": {"limit": 1048576, "usage": 4096},
        "kernel": {"usage": 16384},
        "kernel_tcp": {"usage": 512},
    }


def test_v2_kills_are_counted_not_shortages(v2: dict[str, Any]) -> None:
    assert v2["memory_oom_control"] == {"oom_kill": 3}


def test_v2_cpu_in_nanoseconds(v2: dict[str, Any]) -> None:
    assert v2["cpu"] == {
        "usage": {"total": 856568000, "kernel": 535953000, "user": 320615000},
        "throttling": {"periods": 9, "throttled_periods": 2, "throttled_time": 30000},
    }


def test_v2_pids(v2: dict[str, Any]) -> None:
    assert v2["pids"] == {"current": 3, "limit": 100}


def test_v2_huge_pages_with_their_sizes(v2: dict[str, Any]) -> None:
    assert v2["hugetlb"] == [
        {"usage": 2097152, "max": 4194304, "failcnt": 6, "pagesize": "2MB"},
        {"max": MAX, "pagesize": "1GB"},
    ]


def test_v2_block_io(v2: dict[str, Any]) -> None:
    device = {"major": 8, "minor": 16}
    assert v2["blkio"] == {
        "io_service_bytes_recursive": [
            {"op": "Read", **device, "value": 90112},
            {"op": "Write", **device, "value": 4096},
        ],
        "io_serviced_recursive": [
            {"op": "Read", **device, "value": 3},
            {"op": "Write", **device, "value": 1},
        ],
    }


def test_v2_rdma(v2: dict[str, Any]) -> None:
    assert v2["rdma"] == {
        "current": [{"device": "mlx4_0", "hca_handles": 2, "hca_objects": 2000}],
        "limit": [{"device": "mlx4_0", "hca_handles": 3, "hca_objects": 2**32 - 1}],
    }


def test_v2_group_without_any_controller(tmp_path: Path) -> None:
    (tmp_path / "pods/c").mkdir(parents=True)
    assert v2_group(tmp_path, {}).read_metrics() == {
        "pids": {},
        "cpu": {"usage": {}, "throttling": {}},
        "memory": {"usage": {}, "swap": {}, "kernel": {}, "kernel_tcp": {}},
        "rdma": {},
    }


def test_v2_some_of_the_files(tmp_path: Path) -> None:
    files = {"pods/c/memory.current": "5\n", "pods/c/pids.current": "1\n"}
    metrics = v2_group(tmp_path, files).read_metrics()
    assert metrics["memory"]["usage"] == {"usage": 5}
    assert metrics["pids"] == {"current": 1}
    assert not {"hugetlb", "blkio", "memory_oom_control"} & metrics.keys()


def test_v2_zero_is_left_out(tmp_path: Path) -> None:
    metrics = v2_group(tmp_path, {"pods/c/memory.events": "oom 0\noom_kill 0\n"}).read_metrics()
    assert metrics["memory_oom_control"] == {}


def test_v2_largest_numbers(tmp_path: Path) -> None:
    files = {
        "pods/c/memory.current": f"{MAX}\n",
        "pods/c/memory.swap.max": "max\n",
        "pods/c/memory.stat": f"anon {MAX}\npgfault {MAX}\n",
        "pods/c/cpu.stat": f"usage_usec {MAX}\nuser_usec {MAX // 1000}\nnr_periods {MAX}\n",
        "pods/c/pids.current": f"{MAX}\n",
        "pods/c/pids.max": "max\n",
    }
    metrics = v2_group(tmp_path, files).read_metrics()
    assert metrics["pids"] == {"current": MAX, "limit": MAX}
    assert metrics["memory"]["rss"] == metrics["memory"]["pg_fault"] == MAX
    assert metrics["memory"]["usage"]["usage"] == metrics["memory"]["swap"]["limit"] == MAX
    # More nanoseconds than fit stay at the largest number a host can read.
    assert metrics["cpu"]["usage"] == {"total": MAX, "user": MAX // 1000 * 1000}
    assert metrics["cpu"]["throttling"]["periods"] == MAX


# --- version 1 ----------------------------------------------------------------------------------


def test_v1_memory(v1: dict[str, Any]) -> None:
    totals = [
        "cache",
        "rss",
        "rss_huge",
        "mapped_file",
        "dirty",
        "writeback",
        "pg_pg_in",
        "pg_pg_out",
        "pg_fault",
        "pg_maj_fault",
        "inactive_anon",
        "active_anon",
        "inactive_file",
        "active_file",
        "unevictable",
    ]
    assert v1["memory"] == {
        "cache": 121999360,
        "rss": 1613824,
        "rss_huge": 2097152,
        "mapped_file": 1105920,
        "dirty": 45056,
        "writeback": 4096,
        "pg_pg_in": 6619395,
        "pg_pg_out": 6597080,
        "pg_fault": 7106779,
        "pg_maj_fault": 1698,
        "inactive_anon": 1605632,
        "active_anon": 8192,
        "inactive_file": 22441984,
        "active_file": 99557376,
        "hierarchical_memory_limit": 67108864,
        "hierarchical_swap_limit": 134217728,
        **{f"total_{name}": number for number, name in enumerate(totals, 1)},
        "usage": {"limit": 67108864, "usage": 1000, "max": 2000, "failcnt": 6},
        "swap": {"limit": 134217728, "usage": 1100, "max": 2100, "failcnt": 1},
        "kernel": {"limit": 9223372036854771712, "usage": 300, "max": 400},
        "kernel_tcp": {"limit": 9223372036854771712, "usage": 5},
    }
    assert v1["memory_oom_control"] == {"under_oom": 1, "oom_kill": 3}


def test_v1_cpu_with_each_processor(v1: dict[str, Any]) -> None:
    assert v1["cpu"] == {
        "usage": {
            "total": 7_000_000_000,
            "kernel": 1_000_000_000,
            "user": 2_000_000_000,
            "per_cpu": [3_000_000_000, 4_000_000_000],
        },
        "throttling": {"periods": 9, "throttled_periods": 1, "throttled_time": 3000},
    }


def test_v1_other_controllers(v1: dict[str, Any]) -> None:
    assert v1["pids"] == {"current": 3, "limit": 100}
    assert v1["hugetlb"] == [
        {"usage": 2097152, "max": 4194304, "failcnt": 6, "pagesize": "2MB"},
        {"pagesize": "1GB"},
    ]
    device = {"major": 8, "minor": 16}
    assert v1["blkio"] == {
        "io_service_bytes_recursive": [
            {"op": "Read", **device, "value": 4096},
            {"op": "Write", **device},
            {"op": "Total", **device, "value": 4096},
        ],
        "io_serviced_recursive": [{"op": "Read", **device, "value": 1}],
    }
    assert v1["rdma"]["limit"] == [
        {"device": "mlx4_0", "hca_handles": 2**32 - 1, "hca_objects": 2**32 - 1}
    ]


def test_v1_controllers_that_are_not_mounted_are_left_out(tmp_path: Path) -> None:
    files = {"cpu/cgroup.procs": "1\n", "cpu/pods/c/cpu.stat": "nr_periods 0\n"}
    assert v1_group(tmp_path, files).read_metrics() == {"cpu": {"usage": {}, "throttling": {}}}


def test_v1_no_limit_of_pids_is_left_out_as_hosts_expect(tmp_path: Path) -> None:
    files = {"pids/cgroup.procs": "1\n", "pids/pods/c/pids.max": "max\n"}
    assert v1_group(tmp_path, files).read_metrics()["pids"] == {}


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [V1, V2])
def test_what_goes_to_a_host_is_small_json(tmp_path: Path, files: dict[str, str]) -> None:
    group = (v1_group if files is V1 else v2_group)(tmp_path, files)
    metrics = group.metrics()
    assert (metrics["blkio"], metrics["rdma"]) == ({}, {})
    assert json.loads(json.dumps(metrics)) == metrics
    rest = group.read_metrics()
    assert metrics == {**rest, "blkio": {}, "rdma": {}}


def test_a_group_that_is_gone_has_no_metrics(tmp_path: Path) -> None:
    for manager in (V2Manager(plant(tmp_path / "2", V2)), V1Manager(plant(tmp_path / "1", V1))):
        with pytest.raises(CgroupGoneError, match="control group /pods/none does not exist"):
            manager.group("/pods/none").metrics()


def test_cut_for_host() -> None:
    metrics = {
        "cpu": {"usage": {"per_cpu": [0, 5]}},
        "blkio": {"io_serviced_recursive": [{"op": "Read"}]},
        "rdma": {"current": []},
        "network": [{"name": "eth0"}],
    }
    assert cut_for_host(metrics) == {
        "cpu": {"usage": {"per_cpu": [0, 5]}},
        "blkio": {},
        "rdma": {},
    }
    assert cut_for_host({}) == {}


def test_empty_values_are_left_out_and_sections_stay() -> None:
    assert omit_empty(
        {"a": 0, "b": "", "c": [], "d": {}, "e": {"f": 0}, "g": [{"h": 0, "i": 1}], "j": [0, 1]}
    ) == {"d": {}, "e": {}, "g": [{"i": 1}], "j": [0, 1]}


@pytest.mark.parametrize("text", ["", "\n", "8:0\n", "8 rbytes=1\n", "a:b rbytes=1\n", "8:0 x\n"])
def test_lines_of_io_stat_that_are_none(text: str) -> None:
    assert parse_io(text) == {}


@pytest.mark.parametrize("text", ["", "\n", "Total 5\n", "8:0 Read\n", "x:0 Read 5\n"])
def test_lines_of_blkio_that_are_none(text: str) -> None:
    assert parse_block_io(text) == []


@pytest.mark.parametrize("text", ["", "\n", "mlx4_0\n", "mlx4_0 x\n"])
def test_lines_of_rdma_that_are_none(text: str) -> None:
    assert parse_rdma(text) == []
