"""The resource CombinedLayers: what is mounted where, and what is undone (spec 3.6)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

import pytest

from gcs.linux.mount import MS_BIND
from gcs.protocol.errors import GcsError
from gcs.protocol.hresult import HResult
from gcs.protocol.settings import CombinedLayers, Layer
from gcs.storage.combined_layers import CombinedLayersDriver, bundle_is_mounted, unmount_bundle
from tests.support.storage import RecordingMounts, exists

if TYPE_CHECKING:
    from pathlib import Path


class Guest:
    """A guest with two layers, and a bundle that is a mounted scratch disk, as the v1 host has."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layers = [str(directory / name) for name in ("top", "bottom")]
        for layer in self.layers:
            os.mkdir(layer)
        self.bundle = str(directory / "c/abc")
        os.makedirs(self.bundle)
        self.root = f"{self.bundle}/rootfs"
        self.mounts = RecordingMounts()
        self.driver = CombinedLayersDriver(self.mounts)

    def settings(self, scratch: str = "", root: str | None = None) -> CombinedLayers:
        return CombinedLayers(
            container_root_path=self.root if root is None else root,
            layers=[Layer(path=path) for path in self.layers],
            scratch_path=scratch,
        )

    def files(self) -> set[str]:
        found = self.directory.rglob("*")
        return {str(path.relative_to(self.directory)) for path in found}


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


async def test_layers_and_scratch_in_the_order_given(guest: Guest) -> None:
    scratch = f"{guest.bundle}/scratch/abc"
    await guest.driver.add(guest.settings(scratch))
    assert guest.mounts.calls == [
        ("overlay", guest.root, guest.layers, f"{scratch}/upper", f"{scratch}/work")
    ]
    for path in (guest.root, f"{scratch}/upper", f"{scratch}/work"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


async def test_without_scratch_nothing_can_be_written(guest: Guest) -> None:
    await guest.driver.add(guest.settings())
    assert guest.mounts.calls == [("overlay", guest.root, guest.layers, "", "")]


async def test_a_scratch_elsewhere_holds_the_bundle_too(guest: Guest) -> None:
    scratch = str(guest.directory / "c/abcdef/scratch/abc")
    await guest.driver.add(guest.settings(scratch))
    assert guest.mounts.calls == [
        ("mount", f"{scratch}/bundle", guest.bundle, "", MS_BIND, ""),
        ("overlay", guest.root, guest.layers, f"{scratch}/upper", f"{scratch}/work"),
    ]
    config = guest.directory / "c/abc/config.json"
    config.touch()
    await guest.driver.remove(guest.settings())
    assert guest.mounts.table == [guest.bundle]
    config.unlink()
    await unmount_bundle(guest.bundle, guest.mounts)
    assert guest.mounts.table == []


@pytest.mark.parametrize("readable", [True, False])
async def test_a_bundle_on_a_disk_that_was_pulled_is_unmounted(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    await guest.driver.add(guest.settings(str(guest.directory / "c/abcdef/scratch/abc")))
    assert guest.mounts.table == [guest.bundle, guest.root]

    def refuse(path: str) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "rmdir", refuse)
    if not readable:
        monkeypatch.setattr(os, "listdir", refuse)
    await guest.driver.remove(guest.settings())
    assert guest.mounts.table == []
    # Nothing is remembered of it.
    monkeypatch.undo()
    await guest.driver.add(guest.settings())


@pytest.mark.parametrize(
    ("scratch", "expected"),
    [
        ("", False),
        ("/run/gcs/c/abc", False),
        ("/run/gcs/c/abc/scratch/abc", False),
        ("/run/gcs/c/abcdef/scratch/abc", True),
        ("/run/mounts/scsi/0_1_0/scratch/pod/abc", True),
    ],
)
def test_when_the_bundle_is_mounted(scratch: str, expected: bool) -> None:
    assert bundle_is_mounted("/run/gcs/c/abc/rootfs", scratch) is expected


async def test_a_mount_that_fails_leaves_nothing(guest: Guest) -> None:
    before = guest.files()
    guest.mounts.failures[guest.root] = errno.EINVAL
    for scratch in ("", f"{guest.bundle}/scratch/abc", str(guest.directory / "other/abc")):
        with pytest.raises(GcsError, match=f"combine 2 layers at {guest.root}: mount: Invalid"):
            await guest.driver.add(guest.settings(scratch))
        assert guest.files() == before
        assert guest.mounts.table == []


async def test_a_bundle_that_cannot_be_mounted_leaves_nothing(guest: Guest) -> None:
    before = guest.files()
    guest.mounts.failures[MS_BIND] = errno.ENOMEM
    with pytest.raises(GcsError, match="Cannot allocate memory"):
        await guest.driver.add(guest.settings(str(guest.directory / "other/abc")))
    assert guest.files() == before


async def test_what_was_written_before_survives_a_failure(guest: Guest) -> None:
    scratch = guest.directory / "c/abc/scratch/abc"
    (scratch / "upper").mkdir(parents=True)
    (scratch / "upper/data").write_text("precious")
    (scratch / "work/work").mkdir(parents=True)
    before = guest.files()
    guest.mounts.failures[guest.root] = errno.EIO
    with pytest.raises(GcsError):
        await guest.driver.add(guest.settings(str(scratch)))
    assert guest.files() == before


async def test_the_same_settings_again_change_nothing(guest: Guest) -> None:
    await guest.driver.add(guest.settings())
    await guest.driver.add(guest.settings())
    assert guest.mounts.table == [guest.root]
    with pytest.raises(GcsError, match=f"something is mounted at {guest.root} already"):
        await guest.driver.add(guest.settings(f"{guest.bundle}/scratch/abc"))


async def test_one_scratch_is_for_one_root(guest: Guest) -> None:
    scratch = f"{guest.bundle}/scratch/abc"
    other = f"{guest.bundle}/other"
    await guest.driver.add(guest.settings(scratch))
    with pytest.raises(GcsError, match=f"{scratch} is in use by the root file system {guest.root}"):
        await guest.driver.add(guest.settings(scratch, root=other))
    assert not exists(other)
    await guest.driver.remove(guest.settings())
    await guest.driver.add(guest.settings(scratch, root=other))


async def test_the_mounts_are_looked_at_as_often_with_many_roots_as_with_one(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    original = guest.mounts.mounts_under

    def look(path: str) -> list[str]:
        looks.append(path)
        return original(path)

    monkeypatch.setattr(guest.mounts, "mounts_under", look)
    counts = []
    for number in range(5):
        looks.clear()
        root = f"{guest.directory}/c{number}/rootfs"
        await guest.driver.add(guest.settings(f"{guest.directory}/s{number}", root))
        counts.append(len(looks))
    assert set(counts) == {counts[0]}


async def test_remove_leaves_what_was_written(guest: Guest) -> None:
    scratch = f"{guest.bundle}/scratch/abc"
    await guest.driver.add(guest.settings(scratch))
    await guest.driver.remove(CombinedLayers(container_root_path=guest.root))
    assert guest.mounts.table == []
    assert not exists(guest.root)
    assert exists(f"{scratch}/upper")


async def test_remove_of_what_is_not_there_succeeds(guest: Guest) -> None:
    await guest.driver.remove(guest.settings())
    await guest.driver.remove(guest.settings())
    assert guest.mounts.calls == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "No such file or directory: '.*/missing'"),
        ("file", "layer .*/file is not a directory"),
    ],
)
async def test_a_bad_layer_is_named(guest: Guest, path: str, message: str) -> None:
    (guest.directory / "file").write_text("")
    guest.layers.append(str(guest.directory / path))
    before = guest.files()
    with pytest.raises(GcsError, match=message) as caught:
        await guest.driver.add(guest.settings(f"{guest.bundle}/scratch/abc"))
    assert caught.value.hresult == HResult.FAIL
    assert guest.files() == before


@pytest.mark.parametrize("count", [0, 501])
async def test_the_number_of_layers_has_limits(guest: Guest, count: int) -> None:
    guest.layers = guest.layers[:1] * count
    with pytest.raises(GcsError, match=f"combine {count} layers at .*: 1 to 500 are possible"):
        await guest.driver.add(guest.settings())


@pytest.mark.parametrize("root", ["", "rootfs", "/", "/run/../etc", "/sys/fs"])
async def test_roots_that_cannot_be(guest: Guest, root: str) -> None:
    with pytest.raises(GcsError, match="ContainerRootPath") as caught:
        await guest.driver.add(guest.settings(root=root))
    assert caught.value.hresult == HResult.FAIL
    with pytest.raises(GcsError, match="ContainerRootPath"):
        await guest.driver.remove(guest.settings(root=root))


@pytest.mark.parametrize("scratch", ["scratch", "/run/../scratch"])
async def test_scratch_paths_that_cannot_be(guest: Guest, scratch: str) -> None:
    with pytest.raises(GcsError, match="ScratchPath"):
        await guest.driver.add(guest.settings(scratch))
