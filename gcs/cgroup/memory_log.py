"""The log entry about a memory event (spec 4.7)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.errors import GcsError
from gcs.protocol.logs import format_time

if TYPE_CHECKING:
    from gcs.cgroup.cgroup import Cgroup

logger = logging.getLogger(__name__)

MESSAGE: Final = "memory usage for cgroup exceeded threshold"
#: Seconds to wait for the numbers, because further allocations often follow.
DELAY: Final = 1.0

_ENTRIES: Final = {"memory": "usage", "swap": "swap", "kernel": "kernel"}


async def log_memory_event(
    group: Cgroup, *, threshold: int, count: int, started: int, delay: float = DELAY
) -> None:
    """Log a warning about an event, with the memory statistics of a second later.

    Args:
        group: Where it happened.
        threshold: The limit or threshold in bytes.
        count: Number of the event.
        started: When the agent started, in nanoseconds since the epoch.
        delay: Seconds to wait.
    """
    fields: dict[str, Any] = {
        "gcsStartTime": format_time(started),
        "time": format_time(time.time_ns()),
        "cgroup": group.path,
        "thresholdBytes": threshold,
        "count": count,
        "cgroup_version": group.version,
    }
    await asyncio.sleep(delay)
    try:
        metrics = await asyncio.to_thread(group.read_metrics)
    except GcsError as error:
        logger.error(MESSAGE, extra={"fields": {**fields, "error": str(error)}})
        return
    logger.warning(MESSAGE, extra={"fields": {**fields, **memory_fields(metrics)}})


def memory_fields(metrics: dict[str, Any]) -> dict[str, int]:
    """Return the fields with the statistics; empty for a group without memory controller."""
    memory = metrics.get("memory")
    if memory is None:
        return {}
    fields = {}
    for name, entry in _ENTRIES.items():
        numbers = memory.get(entry, {})
        fields[f"{name}Usage"] = numbers.get("usage", 0)
        fields[f"{name}UsageMax"] = numbers.get("max", 0)
        fields[f"{name}UsageLimit"] = numbers.get("limit", 0)
    return fields
