"""Finding the program to become."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from gcs.init.launch import find_program

if TYPE_CHECKING:
    from pathlib import Path


def test_first_executable_file_on_the_path_wins(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/program").mkdir()
    (tmp_path / "b/program").write_text("not executable")
    (tmp_path / "c/program").write_text("")
    (tmp_path / "c/program").chmod(0o755)
    path = f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"
    assert find_program("program", path) == f"{tmp_path}/c/program"


def test_name_with_a_slash_is_not_searched(tmp_path: Path) -> None:
    assert find_program("./program", str(tmp_path)) == "./program"


def test_reason_why_nothing_was_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        find_program("program", str(tmp_path))
    assert missing.value.filename == "program"
    (tmp_path / "program").write_text("not executable")
    with pytest.raises(PermissionError) as refused:
        find_program("program", str(tmp_path))
    assert refused.value.errno == errno.EACCES
