"""Devices a container gets (spec 4.5, no. 4 and 8; 7.6)."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.assigned_devices import find_assigned_devices
from gcs.runtime.pods.devices import DeviceNode, all_devices, edit_assigned_devices, edit_devices
from gcs.runtime.pods.edit import AssignedDevices
from gcs.runtime.pods.gpu import edit_gpus
from tests.support.pods import LCOW, edit_of, guest

if TYPE_CHECKING:
    from pathlib import Path

NULL = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "uid": 0, "gid": 0}
ALLOW_NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
EVERYTHING = {"allow": True, "access": "rwm"}
PRIVILEGED = {f"{LCOW}.privileged": "true"}


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
@pytest.mark.parametrize(
    "linux", [{}, {"resources": None}, {"resources": {"devices": [{"allow": False}]}}]
)
def test_a_privileged_container_has_all_devices(tmp_path: Path, kind: str, linux: Any) -> None:
    edit = edit_of(tmp_path, kind, annotations=PRIVILEGED, linux=linux)
    edit_devices(edit)
    section = edit.document["linux"]
    assert NULL in section["devices"]
    paths = [device["path"] for device in section["devices"]]
    assert "/dev/console" not in paths
    assert not [path for path in paths if path.startswith(("/dev/pts/", "/dev/shm/"))]
    assert len(paths) == len(set(paths))
    assert section["resources"]["devices"] == [EVERYTHING]


def test_links_and_files_of_dev_are_no_devices(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "deep/link").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    assert list(all_devices(os.fspath(tmp_path))) == []


def test_listed_devices_are_those_of_the_vm(tmp_path: Path) -> None:
    listed = [{"path": "/dev/null", "type": "b", "major": 9, "minor": 9}, None]
    before = {"allow": False, "access": "rwm"}
    edit = edit_of(tmp_path, linux={"devices": listed, "resources": {"devices": [before]}})
    edit_devices(edit)
    assert edit.document["linux"]["devices"] == [NULL]
    assert edit.document["linux"]["resources"]["devices"] == [before, ALLOW_NULL]


def test_a_container_that_lists_none_is_left_alone(tmp_path: Path) -> None:
    edit = edit_of(tmp_path, linux={"resources": {"cpu": {"shares": 2}}})
    edit_devices(edit)
    assert edit.document["linux"] == {"resources": {"cpu": {"shares": 2}}}


def test_a_missing_device_of_a_workload(tmp_path: Path) -> None:
    edit = edit_of(tmp_path, linux={"devices": [{"path": f"{tmp_path}/missing", "major": 1}]})
    with pytest.raises(GcsError, match="missing"):
        edit_devices(edit)


def test_a_missing_device_of_another_container_is_made_by_the_runtime(tmp_path: Path) -> None:
    device = {"path": f"{tmp_path}/missing", "type": "c", "major": 1, "minor": 3}
    edit = edit_of(tmp_path, "standalone", linux={"devices": [device]})
    edit_devices(edit)
    assert edit.document["linux"]["devices"] == [device]


def test_a_link_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    edit = edit_of(tmp_path, linux={"devices": [{"path": os.fspath(link)}]})
    with caplog.at_level(logging.WARNING):
        edit_devices(edit)
    assert edit.document["linux"]["devices"] == []
    assert os.fspath(link) in caplog.text


@pytest.mark.parametrize("device", [{"path": "/etc"}, {"path": 5}, {"type": "c"}, {"path": "a\0"}])
def test_what_is_no_device(tmp_path: Path, device: dict[str, Any]) -> None:
    with pytest.raises(GcsError, match="device"):
        edit_devices(edit_of(tmp_path, linux={"devices": [device]}))


class Machine:
    """A PCI device that is /dev/null and /dev/zero, as sysfs tells it, and its VM."""

    GUID = "0b0b0b0b-0000-0000-0000-000000000000"

    def __init__(self, directory: Path) -> None:
        self.sysfs = directory / "sys"
        self.pci = self.sysfs / "devices/pci1234:00/1234:00:00.0"
        self.pci.mkdir(parents=True)
        (self.sysfs / "dev/char").mkdir(parents=True)

    def add_node(self, number: str, name: str, parent: Path | None = None) -> None:
        node = (parent or self.pci) / "class" / name
        node.mkdir(parents=True)
        (self.sysfs / "dev/char" / number).symlink_to(node)

    async def find(self, device_id: str) -> str:
        if device_id != self.GUID:
            raise GcsError(f"no device {device_id}")
        return os.fspath(self.pci)

    async def assigned(self, *devices: dict[str, str], limit: float = 0.0) -> AssignedDevices:
        edit = edit_of(self.sysfs, windows={"devices": list(devices)})
        vm = guest(
            find_pci_device=self.find,
            sysfs=os.fspath(self.sysfs),
            device_limit=limit,
            device_interval=0.001,
        )
        return await find_assigned_devices(edit.view, vm)


@pytest.mark.parametrize("kind", ["vpci", "vpci-instance-id"])
async def test_nodes_of_an_assigned_device(tmp_path: Path, kind: str) -> None:
    machine = Machine(tmp_path)
    machine.add_node("1:3", "null")
    machine.add_node("1:5", "zero")
    machine.add_node("1:7", "full", parent=tmp_path / "sys/devices/pci1234:00/1234:00:00.01")
    found = await machine.assigned({"id": Machine.GUID, "idType": kind})
    assert [node.path for node in found.nodes] == ["/dev/null", "/dev/zero"]
    assert found.gpu_locations == ()


async def test_nodes_are_waited_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    waiting = asyncio.create_task(
        machine.assigned({"id": Machine.GUID, "idType": "vpci"}, limit=3600)
    )
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    machine.add_node("1:3", "null")
    assert [node.path for node in (await waiting).nodes] == ["/dev/null"]


async def test_a_device_without_nodes(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match=r"no device node after 0 s: is its driver installed"):
        await Machine(tmp_path).assigned({"id": Machine.GUID, "idType": "vpci"})


async def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match="no device other"):
        await Machine(tmp_path).assigned({"id": "other", "idType": "vpci"})


async def test_an_unknown_type_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = await Machine(tmp_path).assigned({"id": "x", "idType": "class"})
    assert found == AssignedDevices()
    assert "class" in caplog.text


async def test_a_container_without_assigned_devices_asks_for_nothing(tmp_path: Path) -> None:
    assert await Machine(tmp_path).assigned() == AssignedDevices()


def test_assigned_devices_are_added_and_allowed(tmp_path: Path) -> None:
    node = DeviceNode("/dev/null", "c", 1, 3, 0, 0)
    edit = edit_of(tmp_path, assigned=AssignedDevices((node,)))
    edit_assigned_devices(edit)
    assert edit.document["linux"]["devices"] == [NULL]
    assert edit.document["linux"]["resources"]["devices"] == [ALLOW_NULL]


async def test_the_hook_of_a_graphics_processor(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    found = await machine.assigned({"id": Machine.GUID, "idType": "gpu"})
    assert found == AssignedDevices((), ("1234:00:00.0",))
    program = tmp_path / "bin/generichook"
    program.parent.mkdir()
    program.touch(mode=0o755)
    path = f"/nowhere:{program.parent}"
    edit = edit_of(
        tmp_path,
        assigned=found,
        vm=guest(path=path),
        annotations={"io.microsoft.container.gpu.capabilities": "utility,compute"},
        hooks=None,
    )
    edit_gpus(edit)
    log = f"{tmp_path}/nvidia-container.log"
    (hook,) = edit.document["hooks"]["createRuntime"]
    assert hook == {
        "path": os.fspath(program),
        "args": [
            os.fspath(program),
            "nvidia-container-cli",
            f"--debug={log}",
            "--no-pivot",
            "configure",
            "--ldconfig=@/sbin/ldconfig",
            "--utility",
            "--compute",
            "--device=1234:00:00.0",
            "--pid={{pid}}",
            f"{tmp_path}/rootfs",
        ],
        "env": [f"PATH={path}", "NVC_INSECURE_MODE=1", f"GENERIC_HOOK_LOG_DEBUG_FILE={log}"],
    }
    rules = edit.document["linux"]["resources"]["devices"]
    assert rules == [{"allow": True, "type": "c", "access": "rwm"}]


def test_an_image_without_the_hook(tmp_path: Path) -> None:
    edit = edit_of(tmp_path, assigned=AssignedDevices((), ("1:0",)), vm=guest(path=str(tmp_path)))
    with pytest.raises(GcsError, match=f"no generichook in {tmp_path}"):
        edit_gpus(edit)
