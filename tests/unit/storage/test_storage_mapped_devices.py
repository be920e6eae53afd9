"""Mapped devices: patience when making them, patience when removing them, nothing left (5.7)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from gcs.linux.device_mapper import DeviceMapper, Target
from gcs.storage.mapped_devices import MappedDevices
from tests.support.mapper import FakeKernel

if TYPE_CHECKING:
    from pathlib import Path

CREATE, REMOVE, RESUME, LOAD = 3, 4, 6, 9
TARGETS = [Target("linear", 8, "/dev/x 0")]


class Mapped:
    """Mapped devices of a made-up kernel."""

    def __init__(self, directory: Path) -> None:
        self.kernel = FakeKernel(directory)
        self.directory = directory
        self.devices = self.patient(0.5)

    def patient(self, limit: float) -> MappedDevices:
        return MappedDevices(
            str(self.directory),
            open_mapper=lambda path: DeviceMapper(path, ioctl=self.kernel),
            create_limit=limit,
            busy_limit=limit,
        )

    def is_untouched(self) -> bool:
        return not self.kernel.tables and os.listdir(self.directory) == ["control"]


@pytest.fixture
def mapped(tmp_path: Path) -> Mapped:
    return Mapped(tmp_path / "mapper")


def test_a_device_and_its_node(mapped: Mapped) -> None:
    (mapped.directory / "d").touch()  # left by somebody
    node = mapped.devices.create("d", TARGETS, read_only=True)
    found = os.stat(node)
    assert stat.S_ISBLK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_rdev == os.makedev(253, 7)
    mapped.devices.remove("d")
    assert mapped.is_untouched()
    mapped.devices.remove("d")


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOENT, errno.ENXIO, errno.ENODEV])
@pytest.mark.parametrize("operation", [CREATE, LOAD, RESUME])
def test_what_is_not_ready_is_tried_again(mapped: Mapped, operation: int, number: int) -> None:
    mapped.kernel.failures[operation] = [number]
    mapped.devices.create("d", TARGETS, read_only=True)
    assert "d" in mapped.kernel.tables


@pytest.mark.parametrize("operation", [CREATE, LOAD, RESUME])
def test_what_is_refused_leaves_nothing(mapped: Mapped, operation: int) -> None:
    mapped.kernel.failures[operation] = [errno.EINVAL]
    with pytest.raises(OSError, match="Invalid argument"):
        mapped.devices.create("d", TARGETS, read_only=True)
    assert mapped.is_untouched()


def test_patience_ends(mapped: Mapped) -> None:
    mapped.kernel.failures[LOAD] = [errno.ENXIO] * 99
    with pytest.raises(OSError, match="load the table of device"):
        mapped.patient(0.0).create("d", TARGETS, read_only=True)
    assert mapped.is_untouched()


def test_a_node_that_cannot_be_made(mapped: Mapped) -> None:
    (mapped.directory / "d").mkdir()
    with pytest.raises(OSError, match=r"'.*/d'"):
        mapped.devices.create("d", TARGETS, read_only=True)
    assert not mapped.kernel.tables


def test_a_device_in_use_is_waited_for(mapped: Mapped) -> None:
    mapped.devices.create("d", TARGETS, read_only=True)
    mapped.kernel.failures[REMOVE] = [errno.EBUSY] * 3
    mapped.devices.remove("d")
    assert mapped.is_untouched()


def test_a_device_that_stays_in_use(mapped: Mapped) -> None:
    node = mapped.devices.create("d", TARGETS, read_only=True)
    mapped.kernel.failures[REMOVE] = [errno.EBUSY] * 99
    with pytest.raises(OSError, match="in use, open 3 times: 'd'") as caught:
        mapped.patient(0.0).remove("d")
    assert caught.value.errno == errno.EBUSY
    assert os.path.exists(node) or stat.S_ISBLK(os.lstat(node).st_mode)


def test_other_errors_of_removing_are_told(mapped: Mapped) -> None:
    mapped.devices.create("d", TARGETS, read_only=True)
    mapped.kernel.failures[REMOVE] = [errno.EINVAL]
    with pytest.raises(OSError, match="remove device: Invalid argument"):
        mapped.devices.remove("d")
    assert mapped.kernel.operations.count(REMOVE) == 1
