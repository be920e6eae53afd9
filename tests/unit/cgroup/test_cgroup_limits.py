"""The memory limit of all pods (spec 4.7, 10.4)."""

from __future__ import annotations

import pytest

from gcs.cgroup import pods_memory_limit, total_memory
from gcs.protocol.errors import GcsError

MIB = 1024 * 1024


def test_what_is_not_reserved_is_for_the_pods() -> None:
    assert pods_memory_limit(1024 * MIB, 75 * MIB) == 949 * MIB
    assert pods_memory_limit(76, 75) == 1


@pytest.mark.parametrize("total", [0, 74 * MIB, 75 * MIB])
def test_the_reserve_must_leave_something(total: int) -> None:
    with pytest.raises(GcsError, match=f"total memory {total} must be greater than"):
        pods_memory_limit(total, 75 * MIB)


def test_the_limit_must_fit_into_a_signed_number() -> None:
    assert pods_memory_limit(2**63, 1) == 2**63 - 1
    with pytest.raises(GcsError, match=f"{2**63} of /pods exceeds maximum"):
        pods_memory_limit(2**63 + 1, 1)


def test_total_memory_is_that_of_the_machine() -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        kibibytes = int(file.readline().split()[1])
    assert total_memory() == kibibytes * 1024
