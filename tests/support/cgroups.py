"""Real control groups for tests."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gcs.cgroup import detect
from gcs.cgroup.v2 import V2Manager
from gcs.linux.mount import mount, unmount

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gcs.cgroup.cgroup import Cgroup, CgroupManager

#: What the machine uses for limits, and version 2, which is on every machine.
VERSIONS = ("of the machine", "v2")


@contextmanager
def real_manager(version: str, directory: Path) -> Iterator[CgroupManager]:
    """One of the VERSIONS; version 2 may have few controllers."""
    if version != "v2":
        yield detect()
        return
    mount("cgroup2", str(directory), "cgroup2")
    try:
        yield V2Manager(str(directory))
    finally:
        unmount(str(directory))


@contextmanager
def real_group(manager: CgroupManager, name: str = "") -> Iterator[Cgroup]:
    """A group of this test alone, not made yet; removed in the end with all that is in it."""
    group = manager.group(f"/gcstest{os.getpid()}x{name}")
    try:
        yield group
    finally:
        group.delete(kill=True)


@contextmanager
def process_in(group: Cgroup, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that starts inside a group; killed in the end."""
    reader, writer = os.pipe()
    # The shell waits for the end of its input, becomes a member meanwhile, and then the program.
    script = 'read line; exec "$@" </dev/null'
    program = subprocess.Popen(["sh", "-c", script, "sh", *command], stdin=reader)
    os.close(reader)
    try:
        group.add_process(program.pid)
        os.close(writer)
        yield program
    finally:
        program.kill()
        program.wait()
