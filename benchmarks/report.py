"""Tables of measurements."""

import os
import platform
from pathlib import Path

from benchmarks.measure import Rows


def table(agents: dict[str, Rows]) -> str:
    """Return a Markdown table: a row per measurement, a column per agent, ratios to the first."""
    names = list(agents)
    rows = list(dict.fromkeys(name for measured in agents.values() for name in measured))
    header = ["measurement", *names, *(f"{names[0]} / {other}" for other in names[1:])]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for row in rows:
        values = [measured.get(row) for measured in agents.values()]
        ratios = [_ratio(values[0], other) for other in values[1:]]
        lines.append([row.strip(), *map(_number, values), *ratios])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """Describe the machine that measures, in one line."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or "unknown processor",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{processor}, {os.cpu_count()} CPUs, {memory:.0f} GiB, Linux {platform.release()}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(ours: float | None, other: float | None) -> str:
    return "–" if ours is None or not other else f"{ours / other:.2f}"
