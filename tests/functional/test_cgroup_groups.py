"""Control groups of the kernel: making, limits, members, statistics, removal (spec 4.7, 10.5)."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import CgroupGoneError, detect
from gcs.protocol.errors import GcsError
from tests.support.cgroups import VERSIONS, process_in, real_group, real_manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gcs.cgroup.cgroup import Cgroup, CgroupManager

MIB = 1024 * 1024


@pytest.fixture(params=VERSIONS)
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CgroupManager]:
    with real_manager(request.param, tmp_path) as manager:
        yield manager


@pytest.fixture
def group(manager: CgroupManager) -> Iterator[Cgroup]:
    with real_group(manager) as group:
        yield group


@pytest.fixture
def machine_group() -> Iterator[Cgroup]:
    """A group where the memory controller is."""
    with real_group(detect()) as group:
        yield group


def test_life_of_a_group(group: Cgroup, manager: CgroupManager) -> None:
    below = manager.group(f"{group.path}/below/lowest")
    below.create()
    group.create()  # it exists already
    assert all(map(os.path.isdir, below.directories()))
    with process_in(below, "sleep", "1000") as program:
        assert group.process_ids() == below.process_ids() == [program.pid]
        with pytest.raises(GcsError, match=f"can't be removed: processes {program.pid} are in it"):
            group.delete(limit=0)
        assert group.exists()
        group.delete(kill=True)
        assert program.wait() == -9
    assert not group.exists()
    assert not any(map(os.path.exists, group.directories()))
    group.delete()
    with pytest.raises(CgroupGoneError):
        group.metrics()


def test_kill_reaches_every_process_below(group: Cgroup, manager: CgroupManager) -> None:
    one, other = (manager.group(f"{group.path}/{name}") for name in ("one", "other/lowest"))
    one.create()
    other.create()
    with (
        process_in(one, "sh", "-c", "sleep 1000 & sleep 1000 & wait") as first,
        process_in(other, "sleep", "1000") as second,
    ):
        group.kill()
        assert (first.wait(), second.wait()) == (-9, -9)
        group.delete()  # waits for the grandchildren to disappear
    assert not group.exists()


def test_frozen_processes_are_killed_too(machine_group: Cgroup) -> None:
    machine_group.create()
    name = {"v1": "freezer.state", "v2": "cgroup.freeze"}[machine_group.version]
    files = [f"{path}/{name}" for path in machine_group.directories()]
    with process_in(machine_group, "sleep", "1000") as program:
        (file,) = filter(os.path.exists, files)
        with open(file, "w", encoding="ascii") as state:
            state.write({"v1": "FROZEN", "v2": "1"}[machine_group.version])
        machine_group.delete(kill=True)
        assert program.wait() == -9


def test_a_process_that_does_not_exist(group: Cgroup) -> None:
    group.create()
    program = subprocess.Popen(["true"])
    program.wait()
    with pytest.raises(GcsError, match=f"adding process {program.pid}: .*No such process"):
        group.add_process(program.pid)


def test_a_failed_creation_leaves_nothing(group: Cgroup, manager: CgroupManager) -> None:
    below = manager.group(f"{group.path}/below")
    with pytest.raises(GcsError, match="hugetlb"):
        below.create({"hugepageLimits": [{"pageSize": "5MB", "limit": 1}]})
    assert not group.exists()


def test_statistics_of_a_busy_group(group: Cgroup) -> None:
    group.create()
    with process_in(group, "sh", "-c", "while :; do :; done"):
        metrics = group.metrics()
        while not metrics["cpu"]["usage"].get("total"):  # until it has used some time
            metrics = group.metrics()
    assert {"memory", "pids", "cpu"} <= metrics.keys()
    assert all(isinstance(number, int) for number in metrics["cpu"]["usage"].get("per_cpu", []))


def test_statistics_where_the_memory_is(machine_group: Cgroup) -> None:
    machine_group.create({"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}})
    with process_in(
        machine_group, "sh", "-c", "x=$(head -c 4000000 /dev/zero | tr '\\0' x); kill -STOP $$"
    ):
        metrics = machine_group.metrics()
        while metrics["memory"]["usage"].get("usage", 0) < MIB:  # until it has allocated
            metrics = machine_group.metrics()
        assert metrics["memory"]["usage"]["limit"] == 64 * MIB
        assert metrics["memory"]["total_rss"] > 0
        assert metrics["pids"]["limit"] == 20
        assert metrics["pids"]["current"] >= 1


def test_limits_reach_the_kernel(machine_group: Cgroup) -> None:
    machine_group.create(
        {
            "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 8 * MIB},
            "cpu": {"shares": 512, "quota": -1, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 1},
        }
    )
    assert machine_group.memory_limit() == 64 * MIB
    # Up, where both together must be raised first, and down, where memory must be lowered first.
    for limit in (128 * MIB, 32 * MIB):
        machine_group.apply({"memory": {"limit": limit, "swap": limit + MIB}})
        assert machine_group.memory_limit() == limit
    assert not machine_group.set_memory_limit(32 * MIB)
    assert machine_group.set_memory_limit(16 * MIB)
    script = "(true) 2>/dev/null; echo $?"
    program = subprocess.Popen(
        ["sh", "-c", f"read line; {script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    machine_group.add_process(program.pid)
    output, _ = program.communicate(b"go\n")
    assert output != b"0\n"  # a second process is one too many


def test_no_limit_again(machine_group: Cgroup) -> None:
    machine_group.create({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    machine_group.apply({"memory": {"limit": -1, "swap": -1}})
    assert machine_group.memory_limit() == 2**64 - 1


def test_a_value_that_the_kernel_refuses(machine_group: Cgroup) -> None:
    machine_group.create()
    with pytest.raises(GcsError, match=r"cpuset\.cpus: writing '999'"):
        machine_group.apply({"cpu": {"cpus": "999"}})


def test_preparation_can_be_repeated() -> None:
    manager = detect()
    manager.prepare()
    manager.prepare()
