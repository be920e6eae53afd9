"""The root file system of a container from its layers, each a disk, as a real host brings them."""

import statistics
import time
from itertools import pairwise
from typing import Final

from benchmarks.containers import Workbench
from benchmarks.measure import Rows, Sizes
from gcs.protocol.settings import ADD, REMOVE, CombinedLayers, Layer, MappedVirtualDisk
from uvm.container import Container, map_disk, new_container_id, unmap_disk
from uvm.guest import Guest

#: The instance id that Hyper-V gives to the first SCSI controller (spec 2.1).
_CONTROLLER: Final = "df6d0690-79e5-55b6-a5ec-c1e2f77f580a"
#: Where the real bus goes: beside its old place, for its links are relative.
_REAL_BUS: Final = "/sys/firmware"
_OWNER: Final = "layers of a benchmark"

#: Shows the SCSI controller where Hyper-V's is, since the reference looks for it nowhere else.
_SHOW_CONTROLLER: Final = f"""
set -e
for host in /sys/class/scsi_host/*; do
    [ "$(cat $host/proc_name)" = virtio_scsi ] && break
done
mount -o bind /sys/bus {_REAL_BUS}
mount -t tmpfs bus /sys/bus
ln -s {_REAL_BUS}/* /sys/bus/
mkdir -p /sys/bus/vmbus/devices/{_CONTROLLER}/${{host##*/}}
"""
_HIDE_CONTROLLER: Final = f"umount /sys/bus && umount {_REAL_BUS}"


async def combined_layers(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure how long it takes to plug, mount and combine the layers of a container, and back."""
    await _run(bench.guest, _SHOW_CONTROLLER)
    rounds = [await _one_root(bench, sizes.layers) for _ in range(sizes.roots)]
    await _run(bench.guest, _HIDE_CONTROLLER)
    whole = f"root file system of {sizes.layers} layers"
    columns = [statistics.median(column) * 1000 for column in zip(*rounds, strict=True)]
    plug, mount, combine, unmount = columns
    return {
        f"{whole}, to its end, p50, ms": plug + mount + combine,
        f"  plug {sizes.layers} disks, p50, ms": plug,
        f"  mount {sizes.layers} layers, p50, ms": mount,
        "  combine them, p50, ms": combine,
        "  unmount and eject all, p50, ms": unmount,
    }


async def _one_root(bench: Workbench, count: int) -> list[float]:
    """Build a root file system and take it down again; how long each step took, in seconds."""
    container = Container(bench.guest, new_container_id())
    marks = [time.perf_counter()]
    addresses = [
        await bench.vm.attach_disk(_OWNER, bench.image, read_only=True) for _ in range(count)
    ]
    marks.append(time.perf_counter())
    disks = [
        MappedVirtualDisk(
            mount_path=f"/run/mounts/scsi/b{number}",
            controller=address.controller,
            lun=address.lun,
            read_only=True,
            options=["ro"],
        )
        for number, address in enumerate(addresses)
    ]
    for disk in disks:
        await map_disk(bench.guest, disk)
    marks.append(time.perf_counter())
    settings = CombinedLayers(
        container_id=container.id,
        container_root_path=container.place.rootfs,
        layers=[Layer(path=disk.mount_path) for disk in disks],
        scratch_path=container.place.scratch_path,
    )
    modify = bench.guest.client.modify_settings
    await modify(ADD, "CombinedLayers", settings)
    marks.append(time.perf_counter())
    await modify(REMOVE, "CombinedLayers", settings)
    for disk in disks:
        await unmap_disk(bench.guest, disk)
    marks.append(time.perf_counter())
    await bench.vm.detach_disks(_OWNER)
    return [after - before for before, after in pairwise(marks)]


async def _run(guest: Guest, script: str) -> None:
    completed = await (await guest.execute_in_vm(["/bin/sh", "-c", script])).communicate()
    if completed.exit_code != 0:
        raise RuntimeError(f"the bus can't be prepared: {completed.stderr.decode()}")
