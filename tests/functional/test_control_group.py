"""Removal of real control groups."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup.group import ControlGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")
NAME = f"gcstest{os.getpid()}x-group"


@pytest.fixture
def group() -> Iterator[list[Path]]:
    """A group with one below it, in every hierarchy."""
    unified = (ROOT / "cgroup.controllers").exists()
    bases = [ROOT] if unified else [path for path in ROOT.iterdir() if not path.is_symlink()]
    directories = [base / NAME for base in bases]
    for directory in directories:
        (directory / "below").mkdir(parents=True)
    yield directories
    for directory in directories:
        if directory.exists():
            (directory / "below").rmdir()
            directory.rmdir()


def test_removal_kills_and_leaves_nothing(group: list[Path]) -> None:
    process = subprocess.Popen(["sleep", "1000"])
    listing = next(path for path in group if path.parent.name in ("pids", ROOT.name))
    (listing / "below/cgroup.procs").write_text(str(process.pid))
    assert ControlGroup(f"/{NAME}").processes() == [process.pid]
    ControlGroup(f"/{NAME}").remove(10)
    assert process.wait() == -9
    assert not any(directory.exists() for directory in group)


def test_removal_of_nothing() -> None:
    ControlGroup(f"/{NAME}").remove(0)
