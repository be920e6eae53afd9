"""Conversion of OCI limits to cgroup v2 (spec 4.7, 10.5)."""

from __future__ import annotations

from typing import Any

import pytest

from gcs.cgroup.resources import cpu_weight, io_weight, read_resources, v2_settings
from gcs.protocol.errors import InvalidArgumentError, InvalidJsonError

MIB = 1024 * 1024


def convert(resources: dict[str, Any] | None) -> dict[str, str]:
    return dict(v2_settings(read_resources(resources)))


@pytest.mark.parametrize("resources", [None, {}, {"memory": None, "cpu": {}, "devices": [{}]}])
def test_nothing_is_set_by_nothing(resources: dict[str, Any] | None) -> None:
    assert convert(resources) == {}


def test_everything_at_once() -> None:
    assert convert(
        {
            "memory": {"limit": 256 * MIB, "reservation": 128 * MIB, "swap": 512 * MIB},
            "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 500},
            "blockIO": {
                "weight": 500,
                "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1000}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}],
            "unified": {"memory.high": "1000"},
        }
    ) == {
        "memory.max": str(256 * MIB),
        "memory.low": str(128 * MIB),
        "memory.swap.max": str(256 * MIB),
        "cpu.weight": "39",
        "cpu.max": "50000 100000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "500",
        "io.bfq.weight": "500",
        "io.max": "8:0 wiops=max",
        "hugetlb.2MB.max": str(4 * MIB),
        "memory.high": "1000",
    }


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ({"limit": 2**63 - 1}, {"memory.max": str(2**63 - 1)}),
        ({"limit": -1}, {"memory.max": "max"}),
        ({"limit": 0}, {}),
        ({"limit": MIB, "swap": MIB}, {"memory.max": str(MIB), "memory.swap.max": "0"}),
        ({"limit": MIB, "swap": -1}, {"memory.max": str(MIB), "memory.swap.max": "max"}),
        ({"swap": -1}, {"memory.swap.max": "max"}),
        ({"reservation": MIB}, {"memory.low": str(MIB)}),
    ],
)
def test_memory(memory: dict[str, int], expected: dict[str, str]) -> None:
    assert convert({"memory": memory}) == expected


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        ({"limit": 2 * MIB, "swap": MIB}, "are less than the memory limit"),
        ({"swap": MIB}, "needs a memory limit"),
        ({"limit": -1, "swap": MIB}, "needs a memory limit"),
    ],
)
def test_swap_that_contradicts_memory(memory: dict[str, int], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        convert({"memory": memory})


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"quota": -1, "period": 100_000}, "max 100000"),
        ({"quota": 0, "period": 100_000}, "max 100000"),
        ({"quota": 50_000}, "50000"),
        ({"quota": -1}, "max"),
    ],
)
def test_cpu_time(cpu: dict[str, int], expected: str) -> None:
    assert convert({"cpu": cpu}) == {"cpu.max": expected}


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 39), (262_144, 10_000), (1, 1), (10**9, 10_000)]
)
def test_shares(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight
    assert convert({"cpu": {"shares": shares}}) == {"cpu.weight": str(weight)}


def test_no_shares_leave_the_weight() -> None:
    assert convert({"cpu": {"shares": 0}}) == {}


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (500, 4950), (1000, 10_000), (1, 1)])
def test_weight_without_the_bfq_scheduler(weight: int, expected: int) -> None:
    assert io_weight(weight) == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [(500, {"pids.max": "500"}), (0, {}), (-1, {"pids.max": "max"})]
)
def test_pids(limit: int, expected: dict[str, str]) -> None:
    assert convert({"pids": {"limit": limit}}) == expected


def test_keys_match_without_regard_to_case() -> None:
    assert convert({"Memory": {"LIMIT": 5}, "blockio": {"weight": 10}}) == {
        "memory.max": "5",
        "io.bfq.weight": "10",
    }


@pytest.mark.parametrize("resources", [[], {"memory": 5}, {"pids": {"limit": "many"}}])
def test_values_of_the_wrong_type(resources: Any) -> None:
    with pytest.raises(InvalidJsonError, match=r"linux\.resources"):
        read_resources(resources)


@pytest.mark.parametrize(
    "resources",
    [
        {"unified": {"../cgroup.kill": "1"}},
        {"unified": {"": "1"}},
        {"hugepageLimits": [{"pageSize": "../x", "limit": 1}]},
        {"hugepageLimits": [{"limit": 1}]},
    ],
)
def test_names_that_leave_the_group(resources: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="can't be part of a file name"):
        read_resources(resources)


def test_every_device_has_a_line_of_its_own() -> None:
    throttles = {
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}, {"major": 8, "minor": 16}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 2}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}],
    }
    assert v2_settings(read_resources({"blockIO": throttles})) == [
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:16 rbps=max"),
        ("io.max", "8:0 wbps=2"),
        ("io.max", "8:0 riops=3"),
        ("io.max", "8:0 wiops=4"),
    ]
