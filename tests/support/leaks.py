"""What a test could leave behind on the machine; to be compared before and after."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple


class Footprint(NamedTuple):
    """Things that outlive an object that forgot them."""

    descriptors: Counter[str]
    children: list[str]
    mounts: list[str]
    cgroups: list[str]
    files: list[str]


def footprint(*marks: str) -> Footprint:
    """Look at this process, and at what carries one of the marks in its name.

    marks: Parts of paths and container ids that only this test uses: others use this machine too.
    """
    return Footprint(
        descriptors=Counter(_descriptors()),
        children=_children(),
        mounts=sorted(line for line in _read_lines("/proc/self/mountinfo") if _marked(line, marks)),
        cgroups=sorted(path for path in _cgroups() if _marked(path, marks)),
        files=sorted(path for path in _runtime_files() if _marked(path, marks)),
    )


def _descriptors() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(_kind(os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def _kind(target: str) -> str:
    """Drop the number of what has no name: it differs even when all is well."""
    return target.partition("[")[0] if target.startswith(("pipe:", "socket:")) else target


def _children() -> list[str]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            status = (directory / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"\nPPid:\t{os.getpid()}\n" in status:
            found.append(" ".join(status.split("\n")[:3]))
    return found


def _cgroups() -> list[str]:
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if "/pods/" in path]


def _runtime_files() -> list[str]:
    paths = []
    for directory in ("/run/runc", "/run/crun", "/run/gcsrunc"):
        if os.path.isdir(directory):
            paths += [f"{directory}/{name}" for name in os.listdir(directory)]
    return paths


def _read_lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _marked(text: str, marks: tuple[str, ...]) -> bool:
    return any(mark in text for mark in marks)
