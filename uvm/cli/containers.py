"""Commands about the containers of a VM that stays."""

import argparse
import sys
from typing import Any, Final

import msgspec

from uvm.keeper.client import KeptVm, the_vm

_SHORT_ID: Final = 12
_HEADINGS: Final = ("CONTAINER", "CPU", "MEMORY", "PEAK", "LIMIT", "PIDS", "OOM KILLS")
_MIB: Final = 1 << 20
#: A limit from here upwards is none: the kernel rounds the greatest number to pages.
_UNLIMITED: Final = 1 << 62


async def pause(arguments: argparse.Namespace, _: list[str]) -> int:
    """Stop the processes of a container, or of all of them."""
    await KeptVm(the_vm(arguments.name)).set_state(arguments.container, paused=True)
    return 0


async def resume(arguments: argparse.Namespace, _: list[str]) -> int:
    """Let the processes of a container, or of all of them, go on."""
    await KeptVm(the_vm(arguments.name)).set_state(arguments.container, paused=False)
    return 0


async def show_statistics(arguments: argparse.Namespace, _: list[str]) -> int:
    """Print what a container uses, or each of them."""
    statistics = await KeptVm(the_vm(arguments.name)).statistics(arguments.container)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(statistics).decode() + "\n")
    else:
        sys.stdout.write(table(statistics))
    return 0


def table(statistics: dict[str, dict[str, Any]]) -> str:
    """Return a table of the metrics of containers (spec 1.8), a line for each of them."""
    rows = [_HEADINGS, *(_row(key, metrics) for key, metrics in statistics.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells) + "\n")
    return "".join(lines)


def _row(container_id: str, metrics: dict[str, Any]) -> tuple[str, ...]:
    return (
        container_id[:_SHORT_ID],
        f"{_number(metrics, 'cpu', 'usage', 'total') / 1e9:.2f} s",
        _size(_number(metrics, "memory", "usage", "usage")),
        _size(_number(metrics, "memory", "usage", "max")),
        _size(_number(metrics, "memory", "usage", "limit")),
        str(_number(metrics, "pids", "current")),
        str(_number(metrics, "memory_oom_control", "oom_kill")),
    )


def _number(metrics: dict[str, Any], *path: str) -> int:
    """Return a value; what is zero is left out by the agent."""
    value: Any = metrics
    for name in path:
        value = value.get(name, {})
    return value if isinstance(value, int) else 0


def _size(count: int) -> str:
    return "-" if count >= _UNLIMITED else f"{count / _MIB:.1f} MiB"
