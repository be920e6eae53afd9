"""The small files of control groups (spec 10.5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.cgroup.files import (
    MAX,
    hugepage_sizes,
    parse_number,
    parse_table,
    read_number,
    read_table,
    read_text,
    write_text,
)
from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "low 0\nhigh 5\nmax 0\noom 0\noom_kill 3\noom_group_kill 0\n",
            {"low": 0, "high": 5, "max": 0, "oom": 0, "oom_kill": 3, "oom_group_kill": 0},
        ),
        ("", {}),
        ("oom_kill 7", {"oom_kill": 7}),
        ("oom_kill abc\noom 2", {"oom": 2}),
        ("oom_kill 3 extra\noom 1", {"oom": 1}),
        ("oom_kill\noom 4", {"oom": 4}),
        ("oom_kill -1\noom 1_0\nlow 2", {"low": 2}),
        (f"low max\nhigh {MAX}\n", {"low": MAX, "high": MAX}),
    ],
)
def test_table(text: str, expected: dict[str, int]) -> None:
    assert parse_table(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12\n", 12),
        ("max\n", 2**64 - 1),
        (f"{2**64 - 1}\n", 2**64 - 1),
        (f"{2**70}\n", 2**64 - 1),
        ("", 0),
        ("-1\n", 0),
        ("x", 0),
    ],
)
def test_number(text: str, expected: int) -> None:
    assert parse_number(text) == expected


def test_missing_files_read_as_nothing(tmp_path: Path) -> None:
    path = f"{tmp_path}/none"
    assert (read_text(path), read_number(path), read_table(path)) == ("", 0, {})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match=f"cannot read {tmp_path}: Is a directory"):
        read_text(os.fspath(tmp_path))


def test_a_refused_write_names_file_and_value(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"writing '5': No such file.*pids\.max"):
        write_text(f"{tmp_path}/pids.max", "5")


def test_hugepage_sizes_are_named_as_in_files(tmp_path: Path) -> None:
    for kibibytes in (1048576, 64, 2048):
        (tmp_path / f"hugepages-{kibibytes}kB").mkdir()
    assert hugepage_sizes(os.fspath(tmp_path)) == ["64KB", "2MB", "1GB"]
    assert hugepage_sizes(f"{tmp_path}/none") == []
