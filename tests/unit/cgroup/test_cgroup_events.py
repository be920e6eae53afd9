"""Watches of memory, woken by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from gcs.cgroup.events import ThresholdWatch

if TYPE_CHECKING:
    from gcs.cgroup.cgroup import Cgroup


class Group:
    """A control group whose usage is another each time that it is asked for."""

    path = "/g"

    def __init__(self, version: str, *usages: int) -> None:
        self.version = version
        self._usages = list(usages)

    def exists(self) -> bool:
        return True

    def memory_usage(self) -> int:
        return self._usages.pop(0) if len(self._usages) > 1 else self._usages[0]


def watch(group: Group) -> tuple[ThresholdWatch, asyncio.Queue[int]]:
    reports: asyncio.Queue[int] = asyncio.Queue()
    return ThresholdWatch(cast("Cgroup", group), 100, reports.put_nowait), reports


@pytest.mark.parametrize("usages", [(101,), (99, 101), (99, 98, 120)])
async def test_usage_that_dips_when_the_kernel_has_told(usages: tuple[int, ...]) -> None:
    """Version 1 tells once, and the usage may be less again just then."""
    watched, reports = watch(Group("v1", *usages))
    watched.wake()
    assert await asyncio.wait_for(reports.get(), 20) == usages[-1]
    watched.close()


async def test_version_2_is_looked_at_now_and_then_anyway() -> None:
    watched, reports = watch(Group("v2", 99, 101))
    watched.wake()
    while watched._task is not None:
        await watched._task
    assert reports.empty()
    watched.wake()
    assert await asyncio.wait_for(reports.get(), 20) == 101
    watched.close()
