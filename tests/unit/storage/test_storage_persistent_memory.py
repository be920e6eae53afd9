"""The resource VPMemDevice: whole devices, parts, checked layers, direct access (spec 3.5)."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from gcs.linux.mount import MS_RDONLY
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import (
    CombinedLayers,
    Layer,
    VerityInfo,
    VPMemDevice,
    VPMemMappingInfo,
)
from gcs.storage.combined_layers import CombinedLayersDriver
from gcs.storage.combined_roots import CombinedRoots
from gcs.storage.persistent_memory import PersistentMemoryDriver
from tests.support.layer_images import make_verified
from tests.support.mapper import RecordingMapper
from tests.support.storage import MIB, RecordingMounts, blank, exists, with_ext4, with_magic

if TYPE_CHECKING:
    from pathlib import Path


class Guest:
    """A VM with an ext4 layer in the persistent memory device 3."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        (self.root / "dev").mkdir(parents=True)
        self.node = with_ext4(self.root / "dev/pmem3")
        self.target = str(directory / "run/layers/p3")
        self.mounts = RecordingMounts()
        self.mapper = RecordingMapper(directory / "mapper")
        self.roots = CombinedRoots()
        self.loads = 0
        self.loaded = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.driver = self.patient(30.0)

    def patient(self, limit: float) -> PersistentMemoryDriver:
        return PersistentMemoryDriver(
            self.mounts,
            self.mapper,
            roots=self.roots,
            root=str(self.root),
            limit=limit,
            recheck=0.01,
            load_modules=self._load,
        )

    def _load(self) -> None:
        self.loads += 1
        self._loop.call_soon_threadsafe(self.loaded.set)

    def allow_direct_access(self) -> None:
        number = os.stat(self.node).st_rdev
        queue = self.root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}/queue"
        queue.mkdir(parents=True)
        (queue / "dax").write_text("1\n")

    def layer(self, **settings: Any) -> VPMemDevice:
        return VPMemDevice(mount_path=self.target, device_number=3, **settings)

    def part(self, offset: int, size: int) -> VPMemDevice:
        mapping = VPMemMappingInfo(device_offset_in_bytes=offset, device_size_in_bytes=size)
        return self.layer(mapping_info=mapping)

    def is_untouched(self) -> bool:
        left = self.mapper.devices or self.mounts.table or self.driver.devices
        return not left and not exists(os.path.dirname(self.target))


@pytest.fixture
async def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_a_layer(guest: Guest) -> None:
    await guest.driver.add(guest.layer())
    await guest.driver.add(guest.layer())
    assert guest.mounts.calls == [
        ("mount", str(guest.node), guest.target, "ext4", MS_RDONLY, "noload")
    ]
    assert stat.S_IMODE(os.stat(guest.target).st_mode) == 0o700
    await guest.driver.remove(guest.layer())
    assert guest.mounts.table == []
    assert not exists(guest.target)
    await guest.driver.remove(guest.layer())
    assert (guest.mapper.calls, guest.loads) == ([], 0)


async def test_an_erofs_layer(guest: Guest) -> None:
    with_magic(guest.node, 1024, b"\xe2\xe1\xf5\xe0")
    await guest.driver.add(guest.layer())
    assert guest.mounts.mount_calls() == [(str(guest.node), guest.target, "erofs", MS_RDONLY, "")]


async def test_direct_access_where_the_device_has_it(guest: Guest) -> None:
    guest.allow_direct_access()
    await guest.driver.add(guest.layer())
    expected = (str(guest.node), guest.target, "ext4", MS_RDONLY, "noload,dax")
    assert guest.mounts.mount_calls() == [expected]


async def test_no_direct_access_where_the_file_system_cannot(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.allow_direct_access()
    original = guest.mounts.mount

    def refuse(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
        if "dax" in data:
            raise OSError(errno.EINVAL, "mount: Invalid argument", source, None, target)
        original(source, target, kind, flags, data)

    monkeypatch.setattr(guest.mounts, "mount", refuse)
    await guest.driver.add(guest.layer())
    assert [call[-1] for call in guest.mounts.mount_calls()] == ["noload"]


async def test_a_part_of_a_device(guest: Guest) -> None:
    # The double's node leads to the start of the device, which has the mark of ext4.
    await guest.driver.add(guest.part(MIB // 2, MIB // 4))
    name = f"dm-linear-pmem3-{MIB // 2}-{MIB // 4}"
    assert guest.mapper.calls == [("create", f"{name} linear ro")]
    (target,) = guest.mapper.devices[name]
    assert (target.sectors, target.parameters) == (512, f"{guest.node} 1024")
    assert guest.mounts.mount_calls()[0][0] == str(guest.mapper.directory / name)
    # What was done at Add counts.
    await guest.driver.remove(guest.layer())
    assert guest.mapper.devices == {}
    assert not exists(guest.target)


async def test_a_checked_part_is_linear_first(guest: Guest) -> None:
    guest.node.unlink()
    root = make_verified(guest.node, "ext4", {"f": "x"})
    settings = guest.part(0, 4096 * (guest.node.stat().st_size // 4096))
    settings = VPMemDevice(
        mount_path=settings.mount_path,
        device_number=3,
        mapping_info=settings.mapping_info,
        verity_info=VerityInfo(root_digest=root),
    )
    await guest.driver.add(settings)
    linear, verity = guest.mapper.devices
    assert linear.startswith("dm-linear-pmem3-0-")
    assert verity == f"dm-verity-pmem3-{root}"
    assert str(guest.mapper.directory / linear) in guest.mapper.devices[verity][0].parameters
    assert guest.mounts.mount_calls()[0][0] == str(guest.mapper.directory / verity)
    await guest.driver.remove(settings)
    assert guest.mapper.calls[-2:] == [("remove", verity), ("remove", linear)]


@pytest.mark.parametrize("fails", ["dm-linear", "dm-verity", "mount", "digest"])
async def test_what_fails_leaves_nothing(guest: Guest, fails: str) -> None:
    guest.node.unlink()
    root = make_verified(guest.node, "ext4", {"f": "x"})
    size = guest.node.stat().st_size // 4096 * 4096
    mapping = VPMemMappingInfo(device_offset_in_bytes=0, device_size_in_bytes=size)
    guest.mapper.failures = {
        f"dm-linear-pmem3-0-{size}": errno.EINVAL if fails == "dm-linear" else 0,
        f"dm-verity-pmem3-{root}": errno.EINVAL if fails == "dm-verity" else 0,
    }
    guest.mapper.failures = {key: value for key, value in guest.mapper.failures.items() if value}
    if fails == "mount":
        guest.mounts.failures[guest.target] = errno.EIO
    digest = "1" * 64 if fails == "digest" else root
    settings = guest.layer(mapping_info=mapping, verity_info=VerityInfo(root_digest=digest))
    with pytest.raises(GcsError, match="pmem3"):
        await guest.driver.add(settings)
    assert guest.is_untouched()


@pytest.mark.parametrize(
    ("offset", "size", "message"),
    [
        (0, 0, "has no whole sectors"),
        (100, 512, "has no whole sectors"),
        (-512, 512, "has no whole sectors"),
        (512, 513, "has no whole sectors"),
        (MIB, 512, f"has {MIB} bytes; a part of 512 bytes at {MIB} is beyond"),
    ],
)
async def test_parts_that_cannot_be(guest: Guest, offset: int, size: int, message: str) -> None:
    with pytest.raises(GcsError, match=message):
        await guest.driver.add(guest.part(offset, size))
    assert guest.is_untouched()


async def test_a_directory_that_cannot_be_made_is_named(guest: Guest) -> None:
    guest.mounts.unmade[guest.target] = errno.EROFS
    message = f"{guest.node} on {guest.target}: make directory: Read-only file system"
    with pytest.raises(GcsError, match=message):
        await guest.driver.add(guest.part(0, MIB))
    assert guest.mounts.calls == []
    assert guest.is_untouched()


async def test_a_layer_that_a_root_file_system_is_made_of_stays(
    guest: Guest, tmp_path: Path
) -> None:
    layers = CombinedLayersDriver(guest.mounts, guest.roots)
    await guest.driver.add(guest.layer())
    roots = [
        CombinedLayers(container_root_path=f"{tmp_path}/{name}", layers=[Layer(path=guest.target)])
        for name in ("a", "b")
    ]
    for root in roots:
        await layers.add(root)
    for root in roots:
        message = rf"\(persistent memory device 3\): in use by .* {root.container_root_path};"
        with pytest.raises(GcsError, match=message):
            await guest.driver.remove(guest.layer())
        await layers.remove(root)
    await guest.driver.remove(guest.layer())
    assert guest.mounts.table == []


async def test_a_device_that_comes_late(guest: Guest) -> None:
    guest.node.unlink()
    adding = asyncio.create_task(guest.driver.add(guest.layer()))
    await guest.loaded.wait()
    with_ext4(guest.node)
    await adding
    assert guest.mounts.table == [guest.target]


async def test_a_device_that_does_not_come(guest: Guest) -> None:
    guest.node.unlink()
    with pytest.raises(GcsError, match=r"layers/p3: persistent memory device 3 did not appear"):
        await guest.patient(0.0).add(guest.layer())
    assert guest.is_untouched()


async def test_devices_that_hold_no_layer(guest: Guest) -> None:
    blank(guest.node)
    with pytest.raises(GcsError, match="pmem3 holds no file system that is known"):
        await guest.driver.add(guest.layer())
    with_magic(guest.node, 0, b"LUKS\xba\xbe")
    with pytest.raises(GcsError, match="pmem3 holds LUKS"):
        await guest.driver.add(guest.layer())
    assert guest.is_untouched()


async def test_a_place_that_is_taken(guest: Guest) -> None:
    with_ext4(guest.root / "dev/pmem4")
    await guest.driver.add(guest.layer())
    with pytest.raises(GcsError, match=r"something is mounted at .* already"):
        await guest.driver.add(VPMemDevice(mount_path=guest.target, device_number=4))
    assert guest.mounts.table == [guest.target]


@pytest.mark.parametrize("path", ["", "run/x", "/proc/x", "/"])
async def test_places_that_cannot_be(guest: Guest, path: str) -> None:
    with pytest.raises(GcsError, match="MountPath"):
        await guest.driver.add(VPMemDevice(mount_path=path, device_number=3))
    with pytest.raises(GcsError, match="MountPath"):
        await guest.driver.remove(VPMemDevice(mount_path=path, device_number=3))


async def test_a_layer_in_use_stays(guest: Guest) -> None:
    await guest.driver.add(guest.part(0, MIB))
    guest.mounts.busy.add(guest.target)
    with pytest.raises(GcsError, match="in use by"):
        await guest.driver.remove(guest.layer())
    assert guest.mapper.devices
    guest.mounts.busy.clear()
    await guest.driver.remove(guest.layer())
    assert guest.mapper.devices == {}
