"""The strictest reader of the log port: each byte belongs to an entry that every host takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = frozenset({"trace", "debug", "info", "warning", "error", "fatal", "panic"})
RAW_LOGS = "UVM_RAW_LOG_DIR"
"""Environment variable of `uvm` that names a directory for the streams as they came."""


class LogStream:
    """Bytes of one connection to the log port.

    Not `uvm.logs`, which forgives as much as a host does, and is itself to be tested.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.rest = b""
        """The beginning of an entry that is not complete."""

    def feed(self, data: bytes) -> None:
        """Take bytes; AssertionError for what is not, and cannot become, an entry on a line."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.entries.append(checked(line))
        assert not self.rest or self.rest.startswith(b"{"), f"not an entry: {self.rest!r}"


def checked(line: bytes) -> dict[str, Any]:
    """The entry on a line; AssertionError when a host would not take it."""
    try:
        entry = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise AssertionError(f"the log has a line that is no JSON, {error}: {line!r}") from None
    assert isinstance(entry, dict), line
    assert entry.get("level") in LEVELS, line
    assert isinstance(entry.get("msg"), str), line
    assert isinstance(entry.get("time"), str), line
    assert entry["time"].endswith("Z"), line
    return entry


class RawLogs:
    """All streams that VMs leave in a directory, checked as they grow."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._streams: dict[Path, tuple[int, LogStream]] = {}

    def check(self) -> int:
        """Check what has come since the last time; return how many entries that were."""
        count = 0
        for path in sorted(self._directory.iterdir()):
            offset, stream = self._streams.get(path, (0, LogStream()))
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            before = len(stream.entries)
            # Noted first: one test is to fail for a bad byte, not all that follow it.
            self._streams[path] = (offset + len(data), stream)
            stream.feed(data)
            count += len(stream.entries) - before
            for entry in stream.entries[before:]:
                # No test has a reason to expect it; the last words say where it happened.
                assert "Segmentation fault" not in entry["msg"], entry
        return count
