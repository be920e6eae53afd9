"""Fifty containers at once in five pods, whose host is lost ten times, and what is left then."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.settings import ADD, REMOVE, MappedVirtualDisk, ScsiDevice
from tests.support.many_pods import Load
from uvm.boot import BootOptions, build_machine
from uvm.utility_vm import UtilityVm
from uvm.vm.disks import layer_image, scratch_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uvm.container import ScsiAddress

PODS, CONTAINERS, LOSSES = 5, 10, 10
LAYER = "/run/mounts/scsi/m0"

#: Processes, mounts, control groups, namespaces, the agent's descriptors, files. Without itself.
INVENTORY = r"""
for d in /proc/[0-9]*; do
  p=${d#/proc/}; [ $p = $$ ] && continue
  c=$(tr '\0' ' ' < $d/cmdline 2>/dev/null); [ "$c" ] || continue
  echo "process $c"; [ "$c" = "${c#*/bin/gcs}" ] || agent=$d
done
sed 's/^[0-9]* [0-9]* [0-9:]* /mount /' /proc/1/mountinfo
find /sys/fs/cgroup -type d -path '*pods*' | sed 's/^/cgroup /'
ls -l /proc/[0-9]*/ns/ 2>/dev/null | sed -n 's/.* -> \([a-z]*:.*\)/namespace \1/p' | sort -u
ls -l $agent/fd | sed -n 's/.* -> \([^[]*\).*/descriptor \1/p'
find /run /tmp /var /dev -path /run/mounts -prune -o -print | sed 's/^/file /'
"""


@pytest.fixture
async def utility(image: Path) -> AsyncIterator[UtilityVm]:
    options = BootOptions(image_dir=str(image), memory_mib=1024, cpus=2)
    machine, vsock = await build_machine(options, lambda _: None)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(machine, Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        yield utility


async def inventory(utility: UtilityVm) -> list[str]:
    process = await utility.guest.execute_in_vm(["/bin/sh", "-c", INVENTORY])
    return sorted((await process.communicate()).stdout.decode().splitlines())


@contextlib.asynccontextmanager
async def disks(utility: UtilityVm, image: Path, pods: int) -> AsyncIterator[list[ScsiAddress]]:
    """Mount the layer that all share, and attach a disk to write on for each pod."""
    layer = await utility.attach_disk(
        "test", await layer_image(image / "busybox.tar"), read_only=True
    )
    scratches = []
    for number in range(pods):
        path = await scratch_image(utility.directory / f"scratch{number}", 256)
        scratches.append(await utility.attach_disk("test", path, read_only=False))
    disk = MappedVirtualDisk(mount_path=LAYER, lun=layer.lun, read_only=True, options=["ro"])
    modify = utility.guest.client.modify_settings
    await modify(ADD, "MappedVirtualDisk", disk)
    yield scratches
    await modify(REMOVE, "MappedVirtualDisk", disk)
    await modify(REMOVE, "SCSIDevice", ScsiDevice(lun=layer.lun))
    await utility.detach_disks("test")


@pytest.mark.timeout(900)
async def test_many_containers_and_many_losses(utility: UtilityVm, image: Path) -> None:
    async with disks(utility, image, PODS) as scratches:
        # What is made once and stays.
        first = Load(
            utility.guest, [LAYER], mark="f", containers=1, lines=2, scratches=scratches[:2]
        )
        await first.run(losses=1)
    before = await inventory(utility)
    async with disks(utility, image, PODS) as scratches:
        load = Load(
            utility.guest,
            [LAYER],
            mark="a",
            containers=CONTAINERS,
            lines=200,
            scratches=scratches,
        )
        await load.run(losses=LOSSES)
    assert load.connections > PODS * CONTAINERS
    assert await inventory(utility) == before
