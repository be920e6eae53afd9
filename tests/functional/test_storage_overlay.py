"""Overlays mounted by this machine's kernel, in each of the three ways."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.linux.mount import mount, unmount
from gcs.linux.mountinfo import read_mounts
from gcs.protocol.errors import GcsError
from gcs.protocol.settings import CombinedLayers, Layer
from gcs.storage import overlay
from gcs.storage.combined_layers import CombinedLayersDriver, unmount_bundle
from tests.support.loop_disks import mounts_below, nothing_left_mounted, process_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    MountWay = Callable[[str, Sequence[str], str, str], None]

#: What separates options, layers, fields and lines, and what is an escape or a quote somewhere.
ODD = "a:b,c\\d e\\:f=\t\n\r\v#'\"\N{SNOWMAN}\N{LINE SEPARATOR}\x85"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs, which can hold an overlay's upper directory on any machine."""
    with nothing_left_mounted(tmp_path):
        place = tmp_path / "t"
        place.mkdir()
        mount("tmpfs", str(place), "tmpfs")
        yield place
        # Fails when the test left something mounted in it.
        unmount(str(place))


def make_layers(place: Path, count: int, name: str = "m") -> list[str]:
    """Layers that all have a file `same`, and one file of their own."""
    layers = []
    for number in range(count):
        layer = place / f"{name}{number}"
        layer.mkdir()
        (layer / "same").write_text(str(number))
        (layer / f"only{number}").write_text("")
        layers.append(str(layer))
    return layers


def make_directories(place: Path, *names: str) -> list[str]:
    for name in names:
        (place / name).mkdir()
    return [str(place / name) for name in names]


def check(target: str, count: int, upper: str) -> None:
    """The top-most layer wins, every layer shows, and what is written goes to `upper`."""
    with open(f"{target}/same", encoding="ascii") as file:
        assert file.read() == "0"
    assert len(os.listdir(target)) == count + 1
    if upper:
        with open(f"{target}/new", "w", encoding="ascii") as file:
            file.write("new")
        assert os.listdir(upper) == ["new"]
    else:
        with pytest.raises(OSError, match="Read-only file system"):
            os.mkdir(f"{target}/new")


WAYS = [overlay.mount_by_context, overlay.mount_by_descriptors, overlay.mount_overlay]


@pytest.mark.parametrize("way", [*WAYS, overlay.mount_by_string])
@pytest.mark.parametrize("writable", [True, False])
def test_few_layers(place: Path, way: MountWay, writable: bool) -> None:
    layers = make_layers(place, 3)
    target, upper, work = make_directories(place, "target", "upper", "work")
    way(target, layers, *((upper, work) if writable else ("", "")))
    check(target, 3, upper if writable else "")
    unmount(target)


@pytest.mark.parametrize("way", WAYS)
def test_500_layers_with_odd_names(place: Path, way: MountWay) -> None:
    layers = make_layers(place, 500, ODD)
    target, upper, work = make_directories(place, "target" + ODD, "upper" + ODD, "work" + ODD)
    directory = os.getcwd()
    descriptors = os.listdir("/proc/self/fd")
    way(target, layers, upper, work)
    assert os.getcwd() == directory
    assert os.listdir("/proc/self/fd") == descriptors
    check(target, 500, upper)
    unmount(target)


@pytest.mark.parametrize("way", WAYS)
def test_paths_longer_than_an_option_may_be(place: Path, way: MountWay) -> None:
    deep = place / ("x" * 200) / ("y" * 200)
    deep.mkdir(parents=True)
    layers = make_layers(deep, 30)
    target, upper, work = make_directories(deep, "target", "upper", "work")
    way(target, layers, upper, work)
    check(target, 30, upper)
    unmount(target)


def test_older_kernels_get_the_shortest_way_that_works(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_appends_layers", False)
    layers = make_layers(place, 400)
    (target,) = make_directories(place, "target")

    def lower_directories() -> str:
        (entry,) = [entry for entry in read_mounts() if entry.target == target]
        return entry.filesystem_options

    overlay.mount_overlay(target, layers[:3], "", "")
    assert f"lowerdir={':'.join(layers[:3])}" in lower_directories()
    unmount(target)
    overlay.mount_overlay(target, layers, "", "")
    assert str(place) not in lower_directories()
    check(target, 400, "")
    unmount(target)


@pytest.mark.parametrize("way", WAYS)
def test_a_directory_that_vanished_is_named(place: Path, way: MountWay) -> None:
    (target,) = make_directories(place, "target")
    with pytest.raises(FileNotFoundError, match="/missing"):
        way(target, [*make_layers(place, 1), f"{place}/missing"], "", "")


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_s_refusal_names_the_target(place: Path, way: MountWay) -> None:
    (target,) = make_directories(place, "target")
    layers = make_layers(place, 2)
    (inner,) = make_directories(place, "m0/inner")
    with pytest.raises(OSError, match=r"symbolic links.*/target"):
        way(target, [*layers, inner], "", "")
    assert mounts_below(place) == [str(place)]


def test_a_single_layer_is_a_read_only_root(place: Path) -> None:
    layers = make_layers(place, 1)
    (target,) = make_directories(place, "target")
    overlay.mount_overlay(target, layers, "", "")
    check(target, 1, "")
    (place / "m0/still-writable").write_text("")
    unmount(target)


def files(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


def settings(place: Path, layers: list[str], scratch: str = "") -> CombinedLayers:
    return CombinedLayers(
        container_root_path=f"{place}/c/id/rootfs",
        layers=[Layer(path=layer) for layer in layers],
        scratch_path=scratch and f"{place}/{scratch}",
    )


async def test_a_container_s_root_in_a_shared_scratch(place: Path) -> None:
    driver = CombinedLayersDriver()
    request = settings(place, make_layers(place, 30), "c/pod/scratch/id")
    root, bundle = request.container_root_path, f"{place}/c/id"
    for _ in range(2):
        # The bundle stays mounted between the rounds, and is not mounted a second time.
        await driver.add(request)
        await driver.add(request)
        assert mounts_below(place) == [str(place), bundle, root]
        (place / "c/id/config.json").write_text("{}")
        await driver.remove(request)
    assert (place / "c/pod/scratch/id/bundle/config.json").read_text() == "{}"
    assert mounts_below(place) == [str(place), bundle]
    await unmount_bundle(bundle)
    assert mounts_below(place) == [str(place)]
    assert not (place / "c/id").exists()


async def test_the_bundle_of_a_container_that_never_came_is_unmounted(place: Path) -> None:
    """Nobody deletes a container whose creation failed, and its pod's scratch has to go."""
    driver = CombinedLayersDriver()
    request = settings(place, make_layers(place, 2), "c/pod/scratch/id")
    await driver.add(request)
    await driver.remove(request)
    assert mounts_below(place) == [str(place)]
    assert not (place / "c/id").exists()
    assert sorted(os.listdir(place / "c/pod/scratch/id")) == ["upper", "work"]
    await driver.add(request)
    assert len(mounts_below(place)) == 3
    await driver.remove(request)


@pytest.mark.parametrize("appends", [None, False], ids=["this kernel", "older kernels"])
@pytest.mark.parametrize("writable", [True, False])
async def test_requests_with_odd_paths(
    place: Path, monkeypatch: pytest.MonkeyPatch, appends: bool | None, writable: bool
) -> None:
    monkeypatch.setattr(overlay, "_appends_layers", appends)
    odd = place / ODD
    odd.mkdir()
    driver = CombinedLayersDriver()
    request = settings(odd, make_layers(odd, 3, ODD), f"s{ODD}/id" if writable else "")
    for _ in range(2):
        await driver.add(request)
        # It is found among the mounts again.
        await driver.add(request)
        bundle = [f"{odd}/c/id"] if writable else []
        assert mounts_below(odd) == [*bundle, request.container_root_path]
        upper = f"{odd}/s{ODD}/id/upper" if writable else ""
        check(request.container_root_path, 3, upper)
        if writable:
            os.unlink(f"{request.container_root_path}/new")
        await driver.remove(request)
    assert mounts_below(odd) == []


@pytest.mark.parametrize("scratch", ["", "c/id/scratch", "c/pod/scratch/id"])
async def test_a_refused_root_leaves_nothing(place: Path, scratch: str) -> None:
    layers = make_layers(place, 2)
    (inner,) = make_directories(place, "m0/inner")
    before = files(place)
    with pytest.raises(GcsError, match=f"combine 3 layers at {place}/c/id/rootfs: .*symbolic"):
        await CombinedLayersDriver().add(settings(place, [*layers, inner], scratch))
    assert files(place) == before
    assert mounts_below(place) == [str(place)]


async def test_a_root_in_use_is_said_to_be(place: Path) -> None:
    driver = CombinedLayersDriver()
    request = settings(place, make_layers(place, 2), "c/id/scratch")
    await driver.add(request)
    with (
        process_in(request.container_root_path) as pid,
        pytest.raises(GcsError, match=rf"rootfs: in use by process {pid} \(cat\)"),
    ):
        await driver.remove(request)
    assert (place / "c/id/rootfs/same").exists()
    await driver.remove(request)
