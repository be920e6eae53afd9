"""Disks with real file systems, on loop devices of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest

from gcs.linux import uevent
from gcs.linux.mount import unmount
from gcs.linux.mountinfo import read_mounts
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import CombinedLayers, Layer, ScsiDevice
from gcs.storage.filesystem import detect
from tests.support.loop_disks import (
    EXT4_SIZE,
    XFS_SIZE,
    Guest,
    ext4_image,
    mounts_below,
    nothing_left_mounted,
    process_in,
    run,
)
from tests.support.storage import MIB, blank

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    with contextlib.ExitStack() as undo:
        undo.enter_context(nothing_left_mounted(tmp_path))
        disks = contextlib.ExitStack()
        try:
            yield Guest(tmp_path, disks)
        finally:
            # The kernel detaches a loop device for good once nothing uses it any more.
            disks.close()


async def test_a_container_s_disks_from_first_add_to_last_eject(guest: Guest) -> None:
    """The sequence of the v1 host: layer, scratch, layers combined; and back (spec 2.6)."""
    image = ext4_image(guest.directory / "layer.img", {"hello": "from the layer"})
    guest.plug(1, image)
    guest.plug(3, blank(guest.directory / "scratch.img", EXT4_SIZE))
    layer = guest.disk(1, "m1", read_only=True)
    scratch = msgspec.structs.replace(
        guest.disk(3, "c/id"), ensure_filesystem=True, filesystem="ext4"
    )
    root = guest.directory / "c/id/rootfs"
    combined = CombinedLayers(
        container_root_path=str(root),
        layers=[Layer(path=layer.mount_path)],
        scratch_path=f"{scratch.mount_path}/scratch/id",
    )
    for round_number in range(2):
        await guest.disks.add(layer)
        await guest.disks.add(scratch)
        await guest.layers.add(combined)
        assert (root / "hello").read_text() == "from the layer"
        assert (root / "written").exists() is (round_number == 1)
        (root / "written").write_text("kept on the scratch disk")
        await guest.layers.remove(CombinedLayers(container_root_path=str(root)))
        await guest.disks.remove(guest.disk(3, "c/id"))
        with pytest.raises(GcsError, match=r"eject .* LUN 1: still mounted at"):
            await guest.ejector.remove(ScsiDevice(lun=1))
        await guest.disks.remove(guest.disk(1, "m1", read_only=True))
    await guest.ejector.remove(ScsiDevice(lun=3))
    await guest.ejector.remove(ScsiDevice(lun=1))
    assert guest.was_ejected(1)
    assert guest.was_ejected(3)
    assert mounts_below(guest.directory) == []
    assert not (guest.directory / "m1").exists()
    assert not (guest.directory / "c/id").exists()


@pytest.mark.parametrize(("kind", "size"), [("ext4", EXT4_SIZE), ("xfs", XFS_SIZE)])
async def test_data_survives_being_asked_to_ensure_a_file_system(
    guest: Guest, kind: str, size: int
) -> None:
    guest.plug(1, blank(guest.directory / "disk.img", size))
    disk = guest.disk(1, "m")
    wanted = msgspec.structs.replace(disk, ensure_filesystem=True, filesystem=kind)
    await guest.disks.add(wanted)
    (guest.directory / "m/data").write_text("precious")
    await guest.disks.remove(disk)
    await guest.disks.add(wanted)
    assert (guest.directory / "m/data").read_text() == "precious"
    await guest.disks.remove(disk)
    other = {"ext4": "xfs", "xfs": "ext4"}[kind]
    with pytest.raises(GcsError, match=f"holds {kind} where {other} was asked for"):
        await guest.disks.add(msgspec.structs.replace(wanted, filesystem=other))
    # The same disk as a read-only data disk, whose file system has to be found out.
    await guest.disks.add(guest.disk(1, "m", read_only=True))
    (entry,) = [entry for entry in read_mounts() if entry.target == disk.mount_path]
    assert entry.filesystem == kind
    assert "ro" in entry.options.split(",")
    assert (guest.directory / "m/data").read_text() == "precious"
    await guest.disks.remove(disk)


async def test_a_read_only_disk_is_not_written_to_even_when_its_journal_is_dirty(
    guest: Guest,
) -> None:
    image = ext4_image(guest.directory / "disk.img", {})
    # Sets the flag that asks for the journal to be replayed at the next mount.
    run("debugfs", "-w", "-R", "feature needs_recovery", str(image))
    before = image.read_bytes()
    guest.plug(1, image)
    disk = guest.disk(1, "m", read_only=True)
    await guest.disks.add(disk)
    await guest.disks.remove(disk)
    assert image.read_bytes() == before


async def test_options_and_propagation_reach_the_kernel(guest: Guest) -> None:
    guest.plug(1, ext4_image(guest.directory / "disk.img", {}))
    disk = guest.disk(1, "m")
    await guest.disks.add(
        msgspec.structs.replace(disk, options=["rbind", "noexec,noatime", "commit=7", "rshared"])
    )
    (entry,) = [entry for entry in read_mounts() if entry.target == disk.mount_path]
    assert {"noexec", "noatime", "rw"} <= set(entry.options.split(","))
    assert "commit=7" in entry.filesystem_options.split(",")
    assert entry.propagation.startswith("shared:")
    await guest.disks.remove(disk)


async def test_an_option_the_file_system_does_not_know_is_refused(guest: Guest) -> None:
    guest.plug(1, ext4_image(guest.directory / "disk.img", {}))
    disk = msgspec.structs.replace(guest.disk(1, "m"), options=["no-such-option"])
    with pytest.raises(GcsError, match=r"LUN 1 .*/m: mount ext4 .*'no-such-option'.*option unknow"):
        await guest.disks.add(disk)
    assert not (guest.directory / "m").exists()


async def test_a_damaged_disk_is_refused_and_leaves_nothing(guest: Guest) -> None:
    image = ext4_image(guest.directory / "disk.img", {})
    with image.open("r+b") as file:
        file.seek(1024 + 4)
        file.write(b"\xff" * 52)
    guest.plug(1, image)
    with pytest.raises(GcsError, match=r"disk at controller 0, LUN 1 .* on .*/m: mount ext4 "):
        await guest.disks.add(guest.disk(1, "m", read_only=True))
    assert mounts_below(guest.directory) == []
    assert not (guest.directory / "m").exists()


async def test_a_disk_in_use_stays_until_its_user_has_gone(guest: Guest) -> None:
    guest.plug(1, ext4_image(guest.directory / "disk.img", {"data": "precious"}))
    disk = guest.disk(1, "m")
    await guest.disks.add(disk)
    with process_in(disk.mount_path) as pid:
        with pytest.raises(GcsError, match=rf"in use by .*process {pid} \(cat\)"):
            await guest.disks.remove(disk)
        assert (guest.directory / "m/data").read_text() == "precious"
    await guest.disks.remove(disk)
    assert not (guest.directory / "m").exists()


async def test_disks_that_a_root_file_system_is_made_of_stay(guest: Guest) -> None:
    """Their mounts would let themselves be unmounted: an overlay has mounts of its own."""
    guest.plug(1, ext4_image(guest.directory / "layer.img", {"hello": "from the layer"}))
    guest.plug(3, ext4_image(guest.directory / "scratch.img", {}))
    layer, scratch = guest.disk(1, "m1", read_only=True), guest.disk(3, "m3")
    root = CombinedLayers(
        container_root_path=str(guest.directory / "rootfs"),
        layers=[Layer(path=layer.mount_path)],
        scratch_path=f"{scratch.mount_path}/scratch/id",
    )
    await guest.disks.add(layer)
    await guest.disks.add(scratch)
    await guest.layers.add(root)
    for disk in (layer, scratch):
        message = (
            rf"unmount {disk.mount_path} \(disk at controller 0, LUN {disk.lun}\): in use by the "
            f"root file system {root.container_root_path}; remove that first"
        )
        with pytest.raises(GcsError, match=message):
            await guest.disks.remove(disk)
    # A program in the VM unmounts one all the same: nobody sees the mount, the disk is in use.
    unmount(layer.mount_path)
    with pytest.raises(GcsError, match=r"LUN 1: /.*/sd1 is unmounted, but still in use"):
        await guest.ejector.remove(ScsiDevice(lun=1))
    assert not guest.was_ejected(1)
    assert (guest.directory / "rootfs/hello").read_text() == "from the layer"
    await guest.layers.remove(root)
    for disk in (layer, scratch):
        await guest.disks.remove(disk)
        await guest.ejector.remove(ScsiDevice(lun=disk.lun))
        assert guest.was_ejected(disk.lun)


async def test_a_partition_of_a_disk(guest: Guest) -> None:
    part = ext4_image(guest.directory / "part.img", {"data": "in the partition"})
    image = guest.directory / "disk.img"
    sectors = EXT4_SIZE // 512
    entry = struct.pack("<B3xB3xII", 0, 0x83, MIB // 512, sectors)
    image.write_bytes(
        (bytes(446) + entry + bytes(48) + b"\x55\xaa").ljust(MIB, b"\0") + part.read_bytes()
    )
    assert detect(str(image)) == "partition table"
    guest.plug(1, image)
    guest.plug_partition(1, 1, image, MIB)
    disk = msgspec.structs.replace(guest.disk(1, "m"), partition=1)
    await guest.disks.add(disk)
    assert (guest.directory / "m/data").read_text() == "in the partition"
    await guest.disks.remove(disk)


async def test_a_block_device_leads_to_the_disk(guest: Guest) -> None:
    device = guest.plug(1, ext4_image(guest.directory / "disk.img", {}))
    disk = msgspec.structs.replace(guest.disk(1, "m"), block_dev=True)
    await guest.disks.add(disk)
    assert run("realpath", disk.mount_path).strip() == device
    # As the host makes a new scratch disk: by running mkfs on the link.
    run("mkfs.ext4", "-q", "-F", disk.mount_path)
    await guest.disks.remove(disk)
    assert not (guest.directory / "m").is_symlink()


async def test_the_kernel_announces_a_disk(guest: Guest) -> None:
    loop = asyncio.get_running_loop()
    announced = asyncio.Event()
    events = uevent.open_socket()
    assert events.family == socket.AF_NETLINK
    with events:
        uevent.drain(events)
        loop.add_reader(events, announced.set)
        try:
            guest.plug(1, blank(guest.directory / "disk.img"))
            await announced.wait()
        finally:
            loop.remove_reader(events)
        assert uevent.drain(events) > 0
        assert uevent.drain(events) == 0
