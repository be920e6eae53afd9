"""A vsock device and a guest of it, for each test their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.vsock_device import Device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.vsock_driver import Guest


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.close()


@pytest.fixture
def guest(device: Device) -> Guest:
    return device.guest()
