"""Changes of resources, as far as they need no disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.protocol.hresult import HResult
from gcs.protocol.message import UVM_ID
from tests.functional.runtime_support import Machine
from tests.support.leaks import footprint
from tests.support.runtimes import RUNTIME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def machine(tmp_path: Path, busybox_rootfs: Path) -> AsyncIterator[Machine]:
    before = footprint(f"gcstest{os.getpid()}x", os.fspath(tmp_path))
    machine = Machine(tmp_path, busybox_rootfs)
    yield machine
    await machine.close()
    assert footprint(machine.mark, os.fspath(tmp_path)) == before


@pytest.mark.parametrize("same_disk", [True, False])
async def test_container_on_layers_of_the_host(machine: Machine, same_disk: bool) -> None:
    """Layers, container, and removal in either order of the two host generations (spec 2.6)."""
    container = machine.new_id()
    bundle = machine.bundle(container)
    scratch = bundle / "scratch" if same_disk else machine.directory / "disk/scratch"
    layers = {
        "ContainerRootPath": os.fspath(bundle / "rootfs"),
        "Layers": [{"Path": os.fspath(machine.rootfs)}],
        "ScratchPath": os.fspath(scratch),
    }
    await machine.modify(UVM_ID, "CombinedLayers", layers, "Add")
    spec = machine.specification("sh", "-c", "echo new >/file; cat /file; ls /bin/sh")
    spec["root"]["path"] = layers["ContainerRootPath"]
    await machine.create(spec=spec, container_id=container, scratch=os.fspath(scratch))
    streams = await machine.streams()
    pid = await machine.start(container, streams)
    assert await streams.stdout.read_all() == b"new\n/bin/sh\n"
    assert await machine.wait(container, pid) == 0
    await machine.modify(UVM_ID, "CombinedLayers", layers, "Remove")
    await machine.host.delete_container_state(container)
    assert not bundle.exists()
    assert not scratch.exists()


async def test_container_is_deleted_before_its_layers(machine: Machine) -> None:
    container = machine.new_id()
    bundle = machine.bundle(container)
    layers = {
        "ContainerRootPath": os.fspath(bundle / "rootfs"),
        "Layers": [{"Path": os.fspath(machine.rootfs)}],
        "ScratchPath": os.fspath(bundle / "scratch"),
    }
    await machine.modify(UVM_ID, "CombinedLayers", layers)
    spec = machine.specification("true")
    spec["root"]["path"] = layers["ContainerRootPath"]
    await machine.create(spec=spec, container_id=container)
    await machine.wait(container, await machine.start(container))
    await machine.host.delete_container_state(container)
    await machine.modify(UVM_ID, "CombinedLayers", layers, "Remove")


@pytest.mark.parametrize(
    ("resource_type", "settings", "hresult"),
    [
        ("ContainerConstraints", {"Linux": {}}, HResult.SYSTEM_NOT_FOUND),
        ("Bogus", {}, HResult.FAIL),
        ("", {}, HResult.FAIL),
        ("MappedVirtualDisk", {"Lun": 300}, HResult.INVALID_JSON),
        ("MappedVirtualDisk", None, HResult.INVALID_JSON),
        ("CombinedLayers", [], HResult.INVALID_JSON),
        ("CombinedLayers", {"ContainerRootPath": "/run/gcs/c/x/rootfs"}, HResult.FAIL),
        ("Network", {"NamespaceID": "x"}, HResult.INVALID_ARGUMENT),
    ],
)
async def test_refused_for_the_vm(
    machine: Machine, resource_type: str, settings: Any, hresult: int
) -> None:
    with pytest.raises(GcsError) as caught:
        await machine.modify(UVM_ID, resource_type, settings)
    assert caught.value.hresult == hresult


async def test_refused_for_a_container(machine: Machine) -> None:
    container = await machine.create("sleep", "1000")
    await machine.start(container)
    with pytest.raises(GcsError, match='"SCSIDevice" is not supported for containers'):
        await machine.modify(container, "SCSIDevice", {"Lun": 1}, "Remove")
    with pytest.raises(GcsError, match=f"{RUNTIME} update"):
        await machine.modify(container, "ContainerConstraints", {"Linux": {"memory": {"limit": 1}}})
    with pytest.raises(GcsError, match=f"{RUNTIME} update"):
        await machine.modify(
            container, "ContainerConstraints", {"Linux": {"memory": {"limit": "much"}}}
        )
