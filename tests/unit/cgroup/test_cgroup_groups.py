"""Groups made of plain files: what is read and written where (spec 4.7, 10.4, 10.5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import CgroupGoneError, detect
from gcs.protocol.errors import GcsError
from tests.support.cgroup_trees import V1, V2, plant

if TYPE_CHECKING:
    from pathlib import Path

    from gcs.cgroup.cgroup import CgroupManager

MIB = 1024 * 1024
LIMIT_FILES = {"v1": "memory/pods/c/memory.limit_in_bytes", "v2": "pods/c/memory.max"}


@pytest.fixture(params=[V1, V2], ids=["v1", "v2"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> CgroupManager:
    return detect(plant(tmp_path, request.param))


def test_both_versions_have_the_same_interface(manager: CgroupManager) -> None:
    group = manager.group("/pods/c")
    assert group.version == manager.version
    assert group.exists()
    assert group.process_ids() == [4, 5, 30]
    assert group.memory_usage() > 0
    assert {"cpu", "memory", "pids"} <= group.metrics().keys()


def test_kills_in_groups_below_count(tmp_path: Path) -> None:
    assert detect(plant(tmp_path / "1", V1)).group("/pods/c").oom_kills() == 5
    # Version 2 counts them in the file of the group.
    assert detect(plant(tmp_path / "2", V2)).group("/pods/c").oom_kills() == 3


def test_a_group_that_is_gone(manager: CgroupManager) -> None:
    group = manager.group("/pods/none")
    assert not group.exists()
    assert (group.process_ids(), group.oom_kills()) == ([], 0)
    group.delete()
    group.kill()
    for call in (
        group.memory_limit,
        group.memory_usage,
        lambda: group.set_memory_limit(1),
        lambda: group.add_process(1),
        group.metrics,
    ):
        with pytest.raises(CgroupGoneError, match="/pods/none does not exist"):
            call()


def test_the_memory_limit_is_written_only_when_it_changes(
    manager: CgroupManager, tmp_path: Path
) -> None:
    group = manager.group("/pods/c")
    file = tmp_path / LIMIT_FILES[manager.version]
    file.write_text(f"{64 * MIB}\n")
    assert not group.set_memory_limit(64 * MIB)
    assert not group.set_memory_limit(64 * MIB + 1)  # the kernel has whole pages only
    assert file.read_text() == f"{64 * MIB}\n"
    assert group.set_memory_limit(32 * MIB)
    assert int(file.read_text().split()[0]) == 32 * MIB == group.memory_limit()
    assert not group.set_memory_limit(32 * MIB)


def test_no_memory_limit(manager: CgroupManager, tmp_path: Path) -> None:
    unlimited = {"v1": "9223372036854771712\n", "v2": "max\n"}
    (tmp_path / LIMIT_FILES[manager.version]).write_text(unlimited[manager.version])
    group = manager.group("/pods/c")
    assert group.memory_limit() == 2**64 - 1
    assert group.set_memory_limit(64 * MIB)


def test_a_limit_the_kernel_does_not_know_is_named(manager: CgroupManager) -> None:
    with pytest.raises(GcsError, match=r"/pods/c: hugetlb\.7MB.*can't be set"):
        manager.group("/pods/c").apply({"hugepageLimits": [{"pageSize": "7MB", "limit": 1}]})


def test_v2_limits_go_to_their_files(tmp_path: Path) -> None:
    files = dict.fromkeys(
        ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "io.weight", "pids.max"), ""
    )
    group = detect(
        plant(tmp_path, {**V2, **{f"pods/c/{name}": text for name, text in files.items()}})
    ).group("/pods/c")
    group.apply(
        {
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB},
            "cpu": {"shares": 1024, "quota": -1, "period": 100_000},
            "blockIO": {"weight": 500},
            "pids": {"limit": -1},
        }
    )
    written = {name: (tmp_path / "pods/c" / name).read_text() for name in files}
    assert written == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": str(32 * MIB),
        "cpu.max": "max 100000",
        "cpu.weight": "39",
        "io.weight": "default 4950",
        "pids.max": "max",
    }


def test_v2_controllers_are_handed_on_along_the_path(tmp_path: Path) -> None:
    control = tmp_path / "cgroup.subtree_control"
    below = tmp_path / "pods/cgroup.subtree_control"
    files = {
        "cgroup.subtree_control": "cpu\n",
        "pods/cgroup.controllers": "cpu memory\n",
        "pods/cgroup.subtree_control": "cpu memory\n",
    }
    detect(plant(tmp_path, {**V2, **files})).group("/pods/new").create()
    assert control.read_text() == "+cpuset +io +memory +hugetlb +pids +rdma +misc"
    assert below.read_text() == "cpu memory\n"
    assert os.listdir(tmp_path / "pods/new") == []


def test_v1_limits_go_to_their_files(tmp_path: Path) -> None:
    cpu = "cpu,cpuacct/pods/c"
    group = detect(
        plant(
            tmp_path,
            {
                **V1,
                "cpuset/cgroup.procs": "1\n",
                "cpuset/pods/c/cpuset.cpus": "0-7\n",
                "memory/pods/c/memory.soft_limit_in_bytes": "",
                "memory/pods/c/memory.swappiness": "60\n",
                f"{cpu}/cpu.shares": "",
                f"{cpu}/cpu.cfs_period_us": "",
                f"{cpu}/cpu.cfs_quota_us": "",
                "blkio/pods/c/blkio.bfq.weight": "",
                "blkio/pods/c/blkio.throttle.write_bps_device": "",
            },
        )
    ).group("/pods/c")
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    group.apply(
        {
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": MIB, "swappiness": 0},
            "cpu": {"shares": 512, "quota": -1, "period": 50_000, "cpus": "0-1"},
            "pids": {"limit": 7},
            "blockIO": {
                "weight": 300,
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
            },
        }
    )
    written = {
        "memory/pods/c/memory.limit_in_bytes": str(64 * MIB),
        "memory/pods/c/memory.memsw.limit_in_bytes": str(96 * MIB),
        "memory/pods/c/memory.soft_limit_in_bytes": str(MIB),
        "memory/pods/c/memory.swappiness": "0",
        f"{cpu}/cpu.shares": "512",
        f"{cpu}/cpu.cfs_period_us": "50000",
        f"{cpu}/cpu.cfs_quota_us": "-1",
        "cpuset/pods/c/cpuset.cpus": "0-1",
        "pids/pods/c/pids.max": "7",
        "blkio/pods/c/blkio.bfq.weight": "300",
        "blkio/pods/c/blkio.throttle.write_bps_device": "8:0 1000",
    }
    for name, value in written.items():
        assert (tmp_path / name).read_text().split("\n")[0].startswith(value), name


def test_v1_controller_that_is_not_mounted(tmp_path: Path) -> None:
    group = detect(plant(tmp_path, V1)).group("/pods/c")
    with pytest.raises(GcsError, match="no cgroup v1 cpuset controller is mounted"):
        group.apply({"cpu": {"cpus": "0"}})


def test_v1_swap_that_is_not_accounted_for(tmp_path: Path) -> None:
    files = {name: text for name, text in V1.items() if "memsw" not in name}
    group = detect(plant(tmp_path, files)).group("/pods/c")
    group.apply({"memory": {"limit": MIB, "swap": -1}})
    with pytest.raises(GcsError, match="swapaccount=1"):
        group.apply({"memory": {"limit": MIB, "swap": 2 * MIB}})


def test_v1_has_no_unified_settings(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match=r"memory\.high can be set on cgroup v2 only"):
        detect(plant(tmp_path, V1)).group("/pods/c").apply({"unified": {"memory.high": "1"}})


@pytest.mark.parametrize("files", [V1, V2])
def test_a_weight_without_scheduler_is_a_warning(
    tmp_path: Path, files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    detect(plant(tmp_path, files)).group("/pods/c").apply({"blockIO": {"weight": 500}})
    assert "no weights of block I/O; 500 is ignored" in caplog.text
