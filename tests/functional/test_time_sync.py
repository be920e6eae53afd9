"""Following the host's clock, with clocks and a chronyd of the test's own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from gcs.runtime.children import Children
from gcs.time_sync import BackOff, TimePaths, TimeSync, find_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SOON = BackOff(first=0.01, factor=1.0, longest=0.01)


class Clocks:
    """A directory with clocks, a chronyd, and what both left there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ran = directory / "ran"
        self.paths = TimePaths(
            clocks=str(directory / "ptp"),
            configuration=str(directory / "chronyd.conf"),
            clock_sources=str(directory / "sources"),
            program=str(directory / "chronyd"),
            module_loader=str(directory / "modprobe"),
        )
        (directory / "ptp").mkdir()

    def add(self, name: str, clock: str) -> None:
        (self.directory / "ptp" / name).mkdir()
        (self.directory / "ptp" / name / "clock_name").write_text(f"{clock}\n")

    def script(self, name: str, text: str) -> None:
        file = self.directory / name
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def chronyd(self, end: str) -> None:
        """A chronyd that notes its arguments and configuration."""
        note = f"{{ printf '%s ' \"$@\"; echo; cat $3; }} >> {self.ran}"
        self.script("chronyd", f"{note}\n{end}")


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    children = Children()
    yield children
    children.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - of files
            await asyncio.sleep(0.01)


def test_which_clock(clocks: Clocks) -> None:
    assert find_clock(clocks.paths) is None
    clocks.add("ptp0", "a network card")
    assert find_clock(clocks.paths) is None
    clocks.add("ptp1", "KVM virtual PTP")
    assert find_clock(clocks.paths) == "/dev/ptp1"
    clocks.add("ptp2", "hyperv")
    assert find_clock(clocks.paths) == "/dev/ptp2"


async def test_chronyd_runs_on_the_clock_until_the_end(clocks: Clocks, children: Children) -> None:
    clocks.add("ptp4", "hyperv")
    clocks.chronyd("exec sleep 1000")
    sync = TimeSync(children, paths=clocks.paths)
    sync.start()
    await until(lambda: clocks.ran.exists() and "makestep" in clocks.ran.read_text())
    assert clocks.ran.read_text() == (
        f"-n -f {clocks.paths.configuration} \n"
        "refclock PHC /dev/ptp4 poll 3 dpoll -2 offset 0 stratum 2\n"
        "makestep 0.1 -1\n"
    )
    await sync.close()
    assert not children._children


async def test_chronyd_is_started_again(
    clocks: Clocks, children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.add("ptp0", "hyperv")
    clocks.chronyd("kill -9 $$")
    sync = TimeSync(children, paths=clocks.paths, back_off=SOON)
    sync.start()
    await until(lambda: clocks.ran.exists() and clocks.ran.read_text().count("-n -f") >= 3)
    await sync.close()
    assert {getattr(record, "error", "") for record in caplog.records} >= {"signal 9"}


async def test_a_missing_clock_is_a_warning(
    clocks: Clocks, children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.add("ptp0", "a network card")
    sync = TimeSync(children, paths=clocks.paths)
    sync.start()
    await until(lambda: "no PTP clock" in caplog.text)
    await sync.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_missing_chronyd_is_a_warning(
    clocks: Clocks, children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.add("ptp0", "hyperv")
    caplog.set_level(logging.WARNING)
    sync = TimeSync(children, paths=clocks.paths)
    sync.start()
    await until(lambda: "can't be synchronised" in caplog.text)
    await sync.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_the_driver_of_kvms_clock_is_loaded(clocks: Clocks, children: Children) -> None:
    (clocks.directory / "sources").write_text("kvm-clock tsc acpi_pm \n")
    clock = f"{clocks.paths.clocks}/ptp7"
    clocks.script(
        "modprobe",
        f"[ $2 = ptp_kvm ] && mkdir {clock}.new && "
        f"echo KVM virtual PTP > {clock}.new/clock_name && mv {clock}.new {clock}",
    )
    clocks.chronyd("exec sleep 1000")
    sync = TimeSync(children, paths=clocks.paths)
    sync.start()
    await until(lambda: clocks.ran.exists() and "makestep" in clocks.ran.read_text())
    assert "PHC /dev/ptp7 " in clocks.ran.read_text()
    await sync.close()


def test_pauses_grow_to_a_limit_and_begin_anew_after_a_long_run() -> None:
    back_off = BackOff()
    pause, pauses = 0.0, []
    for _ in range(25):
        pause = back_off.next(pause, 0.1)
        pauses.append(pause)
    assert pauses[:3] == [0.5, 0.75, 1.125]
    assert pauses[-1] == 600.0
    assert back_off.next(pause, 61.0) == 0.5
