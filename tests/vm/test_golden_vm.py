"""Recorded exchanges from beginning to end, in a VM with the disks and the adapter in question."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from gcs.protocol.settings import ADD
from tests.functional.test_golden import Replay, read_exchange
from tests.functional.test_golden_pod import ADAPTER, PAUSE, READY_PORT, PodReplay, position
from tests.support.fakehost import FakeHost
from tests.support.rootfs import build_rootfs
from tests.vm.boot_support import Boot
from uvm.paths import image_directory, require_image_file
from uvm.vm.disks import make_image
from uvm.vm.machine import Disk, Machine
from uvm.vm.nic import Nic, UserNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.fakehost import HostConnection, Reply
    from uvm.vm.virtual_machine import VirtualMachine

SCRATCH_BYTES = 64 << 20


class Hardware:
    """Plugs in what requests are about before they are sent, and out what was removed.

    Args:
        vm: The machine.
        directory: For images.
        layer: Image of every layer.
    """

    def __init__(self, vm: VirtualMachine, directory: Path, layer: Path) -> None:
        self._vm = vm
        self._directory = directory
        self._layer = layer
        self._disks: dict[int, Disk] = {}
        self._nic = Nic("net0", ADAPTER, UserNetwork(), port=0)

    async def before(self, request: dict[str, Any]) -> None:
        settings = request.get("Settings", {})
        if request.get("RequestType") != ADD:
            return
        if request["ResourceType"] == "Network":
            await self._vm.add_nic(self._nic)
        elif request["ResourceType"] == "MappedVirtualDisk":
            lun = settings.get("Lun", 0)
            read_only = settings.get("ReadOnly", False)
            image = self._layer if read_only else self._scratch(lun)
            self._disks[lun] = Disk(image, lun, read_only=read_only)
            await self._vm.add_disk(self._disks[lun])

    async def unplug(self) -> None:
        """Take out everything; the guest has let go of it."""
        for disk in self._disks.values():
            await self._vm.remove_disk(disk)
        self._disks.clear()

    async def unplug_adapter(self) -> None:
        await self._vm.remove_nic(self._nic)

    def _scratch(self, lun: int) -> Path:
        image = self._directory / f"scratch{lun}.img"
        with image.open("wb") as file:
            file.truncate(SCRATCH_BYTES)
        return image


class DiskReplay(Replay):
    """A replay with hardware."""

    hardware: Hardware

    async def request(self, message: dict[str, Any]) -> None:
        await self.hardware.before(message["body"].get("Request", {}))
        await super().request(message)


class DiskPodReplay(PodReplay, DiskReplay):
    """The pod's; what its requests are changed to comes first."""

    def compare(self, message: dict[str, Any], reply: Reply) -> None:
        PodReplay.compare(self, message, reply)


class Connected:
    """A VM that has dialled the fake host."""

    def __init__(self, host: FakeHost, connection: HostConnection, hardware: Hardware) -> None:
        self.host = host
        self.connection = connection
        self.hardware = hardware


@pytest.fixture
async def connected(tmp_path: Path) -> AsyncIterator[Connected]:
    images = image_directory(None)
    machine = Machine(
        kernel=require_image_file(images, "vmlinux"),
        initrd=require_image_file(images, "initrd-qemu.img"),
        network_ports=1,
    )
    tree = build_rootfs(tmp_path / "tree")
    (tree / "pause").write_text(PAUSE)
    (tree / "pause").chmod(0o755)
    layer = tmp_path / "layer.img"
    make_image(tree, layer)
    boot = Boot(machine, tmp_path / "vm", bridge=False)
    host = FakeHost(str(tmp_path / "vm/vsock"))
    await host.listen()
    async with boot, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(host.close)
        hardware = Hardware(boot.vm, tmp_path, layer)
        yield Connected(host, await host.negotiated(), hardware)


@pytest.mark.timeout(300)
async def test_both_with_their_hardware(connected: Connected) -> None:
    """One VM for two: a container without a pod, then a pod."""
    await container_without_a_pod(connected)
    await pod(connected)


async def container_without_a_pod(connected: Connected) -> None:
    replay = DiskReplay(connected.host, connected.connection)
    replay.hardware = connected.hardware
    await replay.run(read_exchange("standalone-container.jsonl"))
    output = (await replay.outputs[1073742126]).decode().splitlines()
    assert output[:3] == ["alone", "alone", "1"]
    assert await replay.outputs[1073742127] == b""
    await connected.hardware.unplug()


async def pod(connected: Connected) -> None:
    messages = read_exchange("pod-sandbox-workload-exec.jsonl")
    replay = DiskPodReplay(connected.host, connected.connection)
    replay.hardware = connected.hardware
    started, resized = position(messages, 270), position(messages, 288) + 2
    await replay.run(messages[:started])
    await replay.outputs[READY_PORT].says(b"ready\n")
    await replay.run(messages[started:resized])
    await replay.write(next(iter(replay.inputs)), b"x\n")
    await replay.run(messages[resized:])
    outputs = [await output for output in replay.outputs.values()]
    assert b"out\n" in outputs
    assert b"ready\nusr1\nterm\n" in outputs
    assert any(b"77 211" in output for output in outputs)
    await connected.hardware.unplug()
    await connected.hardware.unplug_adapter()
