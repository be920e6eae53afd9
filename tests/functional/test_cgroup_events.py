"""Memory events, told by the kernel (spec 4.7, 10.5)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup import detect
from gcs.cgroup.events import MemoryEvents
from gcs.cgroup.memory_log import MESSAGE, log_memory_event, memory_fields
from gcs.protocol.errors import GcsError
from tests.support.cgroup_trees import V2, plant
from tests.support.cgroups import process_in, real_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gcs.cgroup.cgroup import Cgroup

MIB = 1024 * 1024
#: Allocates without end.
HOG = ("sh", "-c", "x=x; while :; do x=$x$x; done")


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A group with 16 MiB where the memory controller is."""
    with real_group(detect(), "events") as group:
        group.create({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
        yield group


@pytest.fixture
def events() -> Iterator[MemoryEvents]:
    before = os.listdir("/proc/self/fd")
    yield MemoryEvents()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


async def next_of(reports: asyncio.Queue[int]) -> int:
    async with asyncio.timeout(30):
        return await reports.get()


async def test_a_kill_is_reported(group: Cgroup, events: MemoryEvents) -> None:
    reports: asyncio.Queue[int] = asyncio.Queue()
    watch = events.watch_oom(group, reports.put_nowait)
    for kills in (1, 2):
        with process_in(group, *HOG) as program:
            assert await next_of(reports) == kills
            assert program.wait() == -9
        assert group.oom_kills() == kills
        assert group.metrics()["memory_oom_control"]["oom_kill"] == kills
    assert watch.count == 2
    assert reports.empty()
    events.close()
    assert watch.closed


async def test_an_ordinary_kill_is_no_event(group: Cgroup, events: MemoryEvents) -> None:
    reports: asyncio.Queue[int] = asyncio.Queue()
    events.watch_oom(group, reports.put_nowait)
    with process_in(group, "sleep", "1000") as program:
        group.kill()
        program.wait()
    assert group.oom_kills() == 0
    with process_in(group, *HOG):
        assert await next_of(reports) == 1
    events.close()


async def test_usage_above_a_threshold_is_reported_once(
    group: Cgroup, events: MemoryEvents
) -> None:
    reports: asyncio.Queue[int] = asyncio.Queue()
    kills: asyncio.Queue[int] = asyncio.Queue()
    watch = events.watch_threshold(group, 4 * MIB, reports.put_nowait, period=0.05)
    events.watch_oom(group, kills.put_nowait)
    # The shell has it twice for a moment, which has to fit into the group.  It goes on with a loop,
    # since a shell becomes its last command, and then has no variables any more.
    script = "x=$(head -c 5000000 /dev/zero | tr '\\0' x); while sleep 1000; do :; done"
    with process_in(group, "sh", "-c", script):
        assert await next_of(reports) > 4 * MIB
    assert watch.count == 1
    assert kills.empty()
    events.close()


async def test_the_watches_of_a_group_can_end_alone(group: Cgroup, events: MemoryEvents) -> None:
    first: asyncio.Queue[int] = asyncio.Queue()
    second: asyncio.Queue[int] = asyncio.Queue()
    events.watch_oom(group, first.put_nowait).close()
    events.watch_oom(group, second.put_nowait)
    with process_in(group, *HOG):
        assert await next_of(second) == 1
    assert first.empty()
    events.close()


async def test_a_group_that_does_not_exist(events: MemoryEvents) -> None:
    missing = detect().group("/gcstest-none")
    with pytest.raises(GcsError, match="/gcstest-none does not exist"):
        events.watch_oom(missing, print)
    with pytest.raises(GcsError, match="/gcstest-none does not exist"):
        events.watch_threshold(missing, 1, print)
    events.close()


async def test_version_2_is_told_by_its_file(tmp_path: Path, events: MemoryEvents) -> None:
    group = detect(plant(tmp_path, V2)).group("/pods/c")
    file = tmp_path / "pods/c/memory.events"
    reports: asyncio.Queue[int] = asyncio.Queue()
    events.watch_oom(group, reports.put_nowait)
    other = events.watch_oom(group, reports.put_nowait)
    file.write_text("high 1\noom_kill 4\n")
    assert [await next_of(reports), await next_of(reports)] == [4, 4]
    other.close()
    file.write_text("high 2\noom_kill 4\n")
    file.write_text("high 2\noom_kill 6\n")
    assert await next_of(reports) == 6
    assert reports.empty()
    events.close()


async def test_version_2_looks_at_the_usage(tmp_path: Path, events: MemoryEvents) -> None:
    group = detect(plant(tmp_path, V2)).group("/pods/c")
    file = tmp_path / "pods/c/memory.current"
    reports: asyncio.Queue[int] = asyncio.Queue()
    file.write_text(f"{5 * MIB}\n")
    events.watch_threshold(group, 5 * MIB, reports.put_nowait, period=0.01)
    file.write_text(f"{6 * MIB}\n")
    assert await next_of(reports) == 6 * MIB
    events.close()


async def test_version_2_without_memory_controller(tmp_path: Path, events: MemoryEvents) -> None:
    files = {name: text for name, text in V2.items() if "memory" not in name}
    group = detect(plant(tmp_path, files)).group("/pods/c")
    with pytest.raises(GcsError, match=r"memory events of cgroup /pods/c can't be watched.*events"):
        events.watch_oom(group, print)
    events.close()


async def test_log_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    group = detect(plant(tmp_path, V2)).group("/pods/c")
    await log_memory_event(group, threshold=5, count=2, started=0, delay=0)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", MESSAGE)
    fields = record.__dict__["fields"]
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "gcsStartTime": "1970-01-01T00:00:00.000000000Z",
        "cgroup": "/pods/c",
        "thresholdBytes": 5,
        "count": 2,
        "cgroup_version": "v2",
        "memoryUsage": 999424,
        "memoryUsageMax": 12840960,
        "memoryUsageLimit": 2**64 - 1,
        "swapUsage": 4096,
        "swapUsageMax": 0,
        "swapUsageLimit": 1048576,
        "kernelUsage": 16384,
        "kernelUsageMax": 0,
        "kernelUsageLimit": 0,
    }


async def test_log_entry_without_statistics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = detect(plant(tmp_path, V2)).group("/pods/none")
    await log_memory_event(group, threshold=5, count=1, started=0, delay=0)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", MESSAGE)
    assert "does not exist" in record.__dict__["fields"]["error"]


def test_no_fields_without_memory_controller() -> None:
    assert memory_fields({"cpu": {}}) == {}
