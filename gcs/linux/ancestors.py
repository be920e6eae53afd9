"""The processes above another one."""

from __future__ import annotations

import os


def ancestors(pid: int) -> list[int]:
    """Return parent, grandparent and so on of a process, as far as this PID namespace goes.

    What ends meanwhile ends the list.
    """
    found: list[int] = []
    while (parent := _parent(pid)) > 0:
        found.append(parent)
        pid = parent
    return found


def executable(pid: int) -> str:
    """Return the path of the program that a process runs, "" when it can't be told."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may have anything in it.
            return int(file.read().rpartition(b") ")[2].split()[1])
    except OSError:
        return 0
