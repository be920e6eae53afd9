"""`wait-paths`, with a clock of the test's own (spec 7.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gcs.tools import wait_paths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Clock:
    """Stands in for the module `time`: sleeping takes no time, and lets something happen."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.happens: dict[float, Callable[[], object]] = {}
        """What happens when so many seconds have passed."""

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in [each for each in self.happens if self.now - 1000.0 >= each]:
            self.happens.pop(moment)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wait_paths, "time", clock)
    return clock


@pytest.mark.parametrize("arguments", [[], ["--paths", ""], ["-p="]])
def test_paths_are_needed(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert wait_paths.main(arguments) == 1
    assert 'level=fatal msg="\\"paths\\" is required' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "seconds"), [([], 30.0), (["--timeout", "5"], 5.0), (["-t=2"], 2.0)]
)
def test_time_is_up_for_all_paths_together(
    clock: Clock,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    seconds: float,
) -> None:
    clock.happens[1.0] = (tmp_path / "first").touch
    paths = f"{tmp_path}/first,{tmp_path}/never"
    assert wait_paths.main(["--paths", paths, *options]) == 1
    assert clock.now - 1000.0 == pytest.approx(seconds, abs=0.02)
    error = capfd.readouterr().err
    assert "level=fatal" in error
    assert f"{tmp_path}/never" in error


def test_what_is_there_is_not_waited_for(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert wait_paths.main(["-p", f"{tmp_path},{tmp_path}/link", "-t", "0"]) == 0
    assert clock.now == 1000.0


def test_what_appears_later(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    clock.happens[4.0] = (tmp_path / "target").touch
    clock.happens[2.0] = (tmp_path / "second").touch
    assert wait_paths.main(["-p", f"{tmp_path}/link,{tmp_path}/second"]) == 0
    assert clock.now - 1000.0 == pytest.approx(4.0, abs=0.02)


def test_what_cannot_be_looked_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert wait_paths.main(["-p", f"{tmp_path}/file/below"]) == 1
    assert "Not a directory" in capfd.readouterr().err
