"""The log of keepers: bounded, whoever writes, and however many."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from uvm.keeper.log import (
    LONGEST_ENTRY,
    KeeperLogHandler,
    configure_log,
    log_path,
    old_path,
    open_log,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeper.log"


@pytest.fixture
def logger(path: Path) -> Iterator[logging.Logger]:
    handler = KeeperLogHandler(path, LIMIT)
    logger = logging.getLogger("uvm.test.keeper")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_the_log_and_one_older_one_stay_small(path: Path, logger: logging.Logger) -> None:
    for number in range(1000):
        logger.warning("entry %d of a guest that has much to say", number)
    assert sorted(os.listdir(path.parent)) == ["keeper.log", "keeper.log.old"]
    # One entry goes beyond the limit, and not two.
    assert LIMIT <= old_path(path).stat().st_size < LIMIT + 100
    assert path.stat().st_size < LIMIT + 100
    lines = (old_path(path).read_text() + path.read_text()).splitlines()
    assert lines[-1].startswith("entry 999 ")
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_entry_has_a_limit_and_keeps_its_end(path: Path, logger: logging.Logger) -> None:
    logger.warning("begin %s end", "x" * (LONGEST_ENTRY * 2))
    assert path.stat().st_size == LONGEST_ENTRY
    assert path.read_text().endswith("x end\n")


def test_text_that_is_none(path: Path, logger: logging.Logger) -> None:
    logger.warning("%s", os.fsdecode(b"\xff"))
    assert path.read_text() == "\\udcff\n"


def test_a_file_that_is_too_long_is_moved_when_a_keeper_starts(path: Path) -> None:
    path.write_text("x" * LIMIT)
    descriptor = open_log(path, LIMIT)
    os.write(descriptor, b"new")
    os.close(descriptor)
    assert (path.read_text(), old_path(path).stat().st_size) == ("new", LIMIT)


def test_several_keepers_lose_nothing_but_what_is_old(path: Path) -> None:
    program = (
        "import logging, pathlib, sys\n"
        "from uvm.keeper.log import configure_log\n"
        "configure_log(sys.argv[2], pathlib.Path(sys.argv[1]), 20000)\n"
        "for number in range(300): logging.getLogger('x').warning('entry %d', number)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    keepers = [subprocess.Popen([*command, f"vm{number}%d"]) for number in range(4)]
    assert [keeper.wait(60) for keeper in keepers] == [0, 0, 0, 0]
    lines = (old_path(path).read_text() + path.read_text()).splitlines()
    assert sum(file.stat().st_size for file in path.parent.iterdir()) < 2 * 20000 + 1000
    assert len(lines) * 50 > 20000
    for line in lines:
        _, _, level, name, rest = line.split(" ", 4)
        assert (level, name[:2], rest.rpartition(" ")[0]) == ("WARNING", "vm", "x: entry")


def test_a_log_that_can_not_be_written_is_no_reason_to_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = KeeperLogHandler(tmp_path / "none" / "keeper.log")
    handler.emit(logging.LogRecord("x", logging.ERROR, "", 0, "text", None, None))
    assert "FileNotFoundError" in capfd.readouterr().err


def test_entries_are_about_a_vm(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure_log("dev", path)
    logging.getLogger("uvm.plan9").warning("text")
    assert " WARNING dev uvm.plan9: text\n" in path.read_text()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent))
    assert log_path() == path.parent / "uvm" / "keeper.log"
