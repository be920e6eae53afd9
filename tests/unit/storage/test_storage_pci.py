"""Finding a PCI device by the GUID of its VMBus channel, in a sysfs of files (spec 5.4)."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.storage.pci import PciBus

if TYPE_CHECKING:
    from pathlib import Path

GUID = "A585BD5F-bfd9-477b-aeb6-e458d1ed29d7"


def channel(root: Path) -> Path:
    return root / "sys/bus/vmbus/devices" / GUID.lower()


async def test_a_device_that_is_there(tmp_path: Path) -> None:
    device = channel(tmp_path) / "pci1234:00/1234:00:00.0"
    device.mkdir(parents=True)
    (device.parent / "power").mkdir()
    (device.parent.parent / "driver").mkdir()
    assert await PciBus(root=os.fspath(tmp_path)).find(GUID) == os.fspath(device)


async def test_more_than_one_device_is_refused(tmp_path: Path) -> None:
    for function in ("1234:00:00.0", "1234:00:00.1"):
        (channel(tmp_path) / "pci1234:00" / function).mkdir(parents=True)
    with pytest.raises(GcsError, match=r"more than one PCI device could match .*00\.0, .*00\.1"):
        await PciBus(root=os.fspath(tmp_path)).find(GUID)


async def test_a_device_that_comes_late(tmp_path: Path) -> None:
    announcer, events = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    waits = asyncio.Semaphore(0)

    def open_events() -> socket.socket:
        waits.release()
        return events.dup()

    with announcer, events:
        bus = PciBus(root=os.fspath(tmp_path), open_events=open_events, recheck=60)
        finding = asyncio.create_task(bus.find(GUID))
        await waits.acquire()
        (channel(tmp_path) / "pci1234:00").mkdir(parents=True)
        announcer.send(b"add@/devices/pci1234:00")
        device = channel(tmp_path) / "pci1234:00/1234:00:00.0"
        device.mkdir()
        announcer.send(b"add@/devices/pci1234:00/1234:00:00.0")
        assert await finding == os.fspath(device)


async def test_a_device_that_never_comes(tmp_path: Path) -> None:
    bus = PciBus(root=os.fspath(tmp_path), limit=0, open_events=no_events)
    with pytest.raises(GcsError, match=r"did not appear within 0 s.*pci\*"):
        await bus.find(GUID)


@pytest.mark.parametrize("guid", ["", "..", "../../x", "*", "a b"])
async def test_what_is_no_guid(guid: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="GUID"):
        await PciBus(root=os.fspath(tmp_path)).find(guid)


def no_events() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
