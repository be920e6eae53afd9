"""From controller number and LUN to a device node, in a made-up /sys."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mountinfo import read_mounts
from gcs.protocol.errors import GcsError
from gcs.storage.scsi import DiskAddress, ScsiBus
from tests.support.storage import SystemTree, blank

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> SystemTree:
    return SystemTree(tmp_path / "root")


@pytest.fixture
def virtio(tree: SystemTree) -> SystemTree:
    """One virtio-scsi controller, which is host 0."""
    tree.add_pci_host(slot=3, number=0)
    return tree


async def test_hyper_v_controllers_are_found_by_their_guid(tree: SystemTree) -> None:
    for controller, host in ((0, 3), (1, 2), (2, 0), (3, 1)):
        tree.add_vmbus_host(controller, host)
        blank(tree.add_disk(host, 5, f"sd{'abcd'[controller]}"))
    bus = tree.bus()
    found = [await bus.find(DiskAddress(controller, 5)) for controller in range(4)]
    assert found == [f"{tree.root}/dev/sd{letter}" for letter in "abcd"]


async def test_virtio_controllers_are_counted_by_their_place_on_the_bus(tree: SystemTree) -> None:
    tree.add_pci_host(slot=0x1F, number=0, driver="ahci")
    tree.add_pci_host(slot=0x0A, number=1)
    tree.add_pci_host(slot=0x03, number=2)
    blank(tree.add_disk(2, 0, "sda"))
    blank(tree.add_disk(1, 0, "sdb"))
    bus = tree.bus()
    assert await bus.find(DiskAddress(0, 0)) == f"{tree.root}/dev/sda"
    assert await bus.find(DiskAddress(1, 0)) == f"{tree.root}/dev/sdb"


async def test_a_partition_is_found_by_its_number(virtio: SystemTree) -> None:
    blank(virtio.add_disk(0, 1, "sdb"))
    virtio.add_partition(0, 1, "sdb", 1)
    blank(virtio.add_partition(0, 1, "sdb", 12))
    assert await virtio.bus().find(DiskAddress(0, 1, 12)) == f"{virtio.root}/dev/sdb12"


async def test_a_disk_that_comes_late_is_waited_for_by_event(tree: SystemTree) -> None:
    announcer, events = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    waits = asyncio.Semaphore(0)

    def open_events() -> socket.socket:
        waits.release()
        return events.dup()

    with announcer, events:
        finding = asyncio.create_task(tree.bus(open_events=open_events).find(DiskAddress(0, 2, 1)))
        await waits.acquire()
        tree.add_pci_host(slot=3, number=0)
        announcer.send(b"add@/devices/host0")
        await waits.acquire()
        tree.add_disk(0, 2, "sdc")
        announcer.send(b"add@/devices/sdc")
        node = blank(tree.add_partition(0, 2, "sdc", 1), size=0)
        announcer.send(b"add@/devices/sdc1")
        blank(node)
        announcer.send(b"change@/devices/sdc1")
        assert await finding == str(node)


async def test_a_missing_disk_is_named(virtio: SystemTree) -> None:
    with pytest.raises(
        GcsError, match=r"controller 0, LUN 7 did not appear within 0.01 s: nothing at /.*/0:0:0:7/"
    ):
        await virtio.bus(limit=0.01).find(DiskAddress(0, 7))


async def test_a_missing_partition_is_named_with_those_that_exist(virtio: SystemTree) -> None:
    blank(virtio.add_disk(0, 1, "sdb"))
    virtio.add_partition(0, 1, "sdb", 1)
    with pytest.raises(GcsError, match=r"LUN 1, partition 3 did not appear .*: sdb has sdb1;"):
        await virtio.bus(limit=0).find(DiskAddress(0, 1, 3))


async def test_a_disk_without_node_or_size_is_not_ready(virtio: SystemTree) -> None:
    node = virtio.add_disk(0, 1, "sdb")
    with pytest.raises(GcsError, match="sdb cannot be opened: No such file"):
        await virtio.bus(limit=0).find(DiskAddress(0, 1))
    blank(node, size=0)
    with pytest.raises(GcsError, match="sdb has size 0"):
        await virtio.bus(limit=0).find(DiskAddress(0, 1))


async def test_a_node_whose_driver_is_not_ready_is_tried_again(
    virtio: SystemTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = str(blank(virtio.add_disk(0, 1, "sdb")))
    errors = [errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM]
    really_open = os.open

    def open_late(path: str, flags: int, mode: int = 0o777) -> int:
        if path == node and errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number), path)
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", open_late)
    bus = ScsiBus(root=str(virtio.root), disk_limit=60, recheck=0.001)
    assert await bus.find(DiskAddress(0, 1)) == node
    assert errors == []


async def test_a_node_that_is_broken_ends_the_wait(virtio: SystemTree) -> None:
    node = virtio.add_disk(0, 1, "sdb")
    node.symlink_to(node)
    with pytest.raises(GcsError, match=r"disk at controller 0, LUN 1: open .*symbolic links"):
        await virtio.bus().find(DiskAddress(0, 1))


async def test_two_block_devices_of_one_disk_are_refused(virtio: SystemTree) -> None:
    virtio.add_disk(0, 1, "sdb")
    (virtio.root / "sys/bus/scsi/devices/0:0:0:1/block/sdc").mkdir()
    with pytest.raises(GcsError, match=r"more than one block device could match .*sdb, sdc"):
        await virtio.bus().find(DiskAddress(0, 1))


async def test_controllers_that_cannot_be(virtio: SystemTree) -> None:
    bus = virtio.bus(limit=0)
    with pytest.raises(GcsError, match="SCSI controller 200 does not exist; controllers are 0 to"):
        await bus.find(DiskAddress(200, 0))
    with pytest.raises(GcsError, match="SCSI controller 200 does not exist"):
        await bus.eject(DiskAddress(200, 0))
    with pytest.raises(GcsError, match=r"controller 1 did not appear .* has 1 virtio-scsi contr"):
        await bus.find(DiskAddress(1, 0))


async def test_a_missing_hyper_v_controller_is_named_by_its_guid(tree: SystemTree) -> None:
    tree.add_vmbus_host(0, 0)
    with pytest.raises(GcsError, match="0110f83b-de10-5172-a266-78bca56bf50a"):
        await tree.bus(limit=0).find(DiskAddress(1, 0))


async def test_eject_asks_the_kernel_to_delete_the_disk(virtio: SystemTree) -> None:
    virtio.add_disk(0, 4, "sdb")
    await virtio.bus().eject(DiskAddress(0, 4))
    delete = virtio.root / "sys/bus/scsi/devices/0:0:0:4/delete"
    assert delete.read_bytes() == b"1\n"


async def test_eject_of_what_is_gone_succeeds_at_once(virtio: SystemTree) -> None:
    await virtio.bus(limit=3600).eject(DiskAddress(0, 9))
    await virtio.bus(limit=3600).eject(DiskAddress(3, 9))


async def test_eject_of_a_disk_that_is_mounted_is_refused(virtio: SystemTree) -> None:
    mounted = read_mounts()[0]
    virtio.add_disk(0, 4, "sdb", number=mounted.device)
    with pytest.raises(GcsError, match="eject disk at controller 0, LUN 4: still mounted at /"):
        await virtio.bus().eject(DiskAddress(0, 4))
    assert not (virtio.root / "sys/bus/scsi/devices/0:0:0:4/delete").read_bytes()
