"""Rules for requests that change resources (spec 3.1)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError, InvalidJsonError
from gcs.protocol.hresult import HResult
from gcs.protocol.requests import ModificationRequest
from gcs.protocol.settings import SETTINGS, CombinedLayers, MappedDirectory, ScsiDevice
from gcs.runtime.assembly import make_drivers
from gcs.runtime.namespaces import Namespaces
from gcs.runtime.network import Network
from gcs.runtime.resources import ResourceTable, read_settings
from gcs.storage.driver import ResourceDriver
from gcs.storage.pci import PciBus
from gcs.transport import NullTransport

if TYPE_CHECKING:
    from pathlib import Path

    from gcs.network.workers import Workers


def no_network() -> Network:
    def make_workers() -> Workers:
        raise AssertionError("a worker is wanted")

    return Network(make_workers, PciBus().find)


class Recorder(ResourceDriver[Any]):
    """A driver without update."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def add(self, settings: Any) -> None:
        self.calls.append(("add", settings))

    async def remove(self, settings: Any) -> None:
        self.calls.append(("remove", settings))


async def test_requests_reach_the_driver() -> None:
    driver = Recorder()
    table = ResourceTable({"SCSIDevice": driver})
    settings = ScsiDevice(lun=3)
    await table.modify("SCSIDevice", "Add", settings)
    await table.modify("SCSIDevice", "Remove", settings)
    assert driver.calls == [("add", settings), ("remove", settings)]


@pytest.mark.parametrize("request_type", ["Update", "PreAdd", "Bogus", "add"])
async def test_what_a_driver_does_not_support(request_type: str) -> None:
    driver = Recorder()
    with pytest.raises(GcsError) as caught:
        await ResourceTable({"SCSIDevice": driver}).modify("SCSIDevice", request_type, None)
    assert caught.value.message == f'the RequestType "{request_type}" is not supported'
    assert caught.value.hresult == HResult.FAIL
    assert driver.calls == []


@pytest.mark.parametrize("resource_type", sorted(SETTINGS))
@pytest.mark.parametrize("request_type", ["PreAdd", "Bogus"])
async def test_no_resource_supports_these(resource_type: str, request_type: str) -> None:
    table = ResourceTable(make_drivers(Namespaces(), no_network(), NullTransport(), PciBus()))
    with pytest.raises(GcsError, match=f'"{request_type}" is not supported'):
        await table.modify(resource_type, request_type, None)


async def test_resource_without_a_driver(tmp_path: Path) -> None:
    table = ResourceTable({})
    missing = MappedDirectory(mount_path=os.fspath(tmp_path / "none"))
    with pytest.raises(GcsError, match="no support for the resource MappedDirectory"):
        await table.modify("MappedDirectory", "Add", missing)
    await table.modify("MappedDirectory", "Remove", missing)
    with pytest.raises(GcsError, match="MappedDirectory"):
        await table.modify(
            "MappedDirectory", "Remove", MappedDirectory(mount_path=os.fspath(tmp_path))
        )


def test_settings_are_decoded() -> None:
    request = ModificationRequest(
        resource_type="CombinedLayers",
        settings={"containerrootpath": "/r", "Layers": [{"Path": "/l"}], "Other": 1},
    )
    settings = read_settings(request)
    assert isinstance(settings, CombinedLayers)
    assert settings.container_root_path == "/r"
    assert [layer.path for layer in settings.layers] == ["/l"]


def test_resource_without_settings() -> None:
    request = ModificationRequest(resource_type="PodCgroupMemoryLimit", settings="anything")
    assert read_settings(request) is None


@pytest.mark.parametrize("settings", [None, [], "x", 5, {"Lun": "x"}, {"Lun": 300}, {"Lun": -1}])
def test_settings_of_another_form(settings: Any) -> None:
    with pytest.raises(InvalidJsonError):
        read_settings(ModificationRequest(resource_type="SCSIDevice", settings=settings))


@pytest.mark.parametrize(
    "resource_type", ["", "Bogus", "scsidevice", "NetworkNamespace", "HvSocket", "Memory"]
)
def test_unknown_resource_type(resource_type: str) -> None:
    with pytest.raises(GcsError, match=f"invalid ResourceType '{resource_type}'") as caught:
        read_settings(ModificationRequest(resource_type=resource_type, settings={}))
    assert caught.value.hresult == HResult.FAIL
