"""Boots the image and measures it: `python -m benchmarks --help`."""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.archives import print_table
from benchmarks.containers import Workbench, mount_layer
from benchmarks.layers import combined_layers
from benchmarks.measure import (
    Measurement,
    Rows,
    Sizes,
    container_lives,
    memory,
    round_trips,
    streams,
)
from benchmarks.network import network_adapters
from benchmarks.report import machine, table
from benchmarks.shares import shared_directory
from uvm.paths import image_directory, require_image_file
from uvm.timings import Timings
from uvm.utility_vm import RootDisks, UtilityVm
from uvm.vm.accelerator import choose_accelerator
from uvm.vm.disks import layer_image
from uvm.vm.machine import Machine
from uvm.vm.virtual_machine import choose_vsock

_LAYER = "/run/mounts/scsi/m0"
_MEASUREMENTS: Sequence[Measurement] = (
    memory,
    round_trips,
    container_lives,
    streams,
    combined_layers,
    shared_directory,
)
_IMAGES = ("delta.tar.gz", "initrd.img", "rootfs.tar.gz")


def main() -> None:
    """Run the benchmarks the command line asks for."""
    arguments = _parse()
    images = image_directory(arguments.image_dir)
    initrds = {"gcs": require_image_file(images, "initrd-qemu.img")} | dict(arguments.initrd)
    sizes = (
        Sizes(round_trips=192, lives=3, stream_mib=16, running=5, roots=2, adapters=2)
        if arguments.quick
        else Sizes()
    )
    boots = 1 if arguments.quick else arguments.boots
    agents: dict[str, Rows] = {name: {} for name in initrds}
    with tempfile.TemporaryDirectory(prefix="uvm-bench-") as directory:
        bench = Bench(images, Path(directory), sizes)
        # In turn: what disturbs the machine for a while disturbs all agents alike.
        startups: dict[str, list[Rows]] = {name: [] for name in initrds}
        for _ in range(boots - 1):
            for name, initrd in initrds.items():
                startups[name].append(asyncio.run(bench.boot_only(initrd)))
        for name, initrd in initrds.items():
            print(f"measuring {name} …", file=sys.stderr)
            boot, rows = asyncio.run(bench.measure(initrd))
            startups[name].append(boot)
            agents[name] = _medians(startups[name]) | rows
        for name, initrd in arguments.containers:
            print(f"measuring containers of {name} …", file=sys.stderr)
            _, agents[name] = asyncio.run(bench.measure(initrd, (container_lives,)))
        # The reference finds no adapter outside Hyper-V.
        agents["gcs"] |= asyncio.run(bench.network(initrds["gcs"]))
    agents["gcs"] |= {
        f"{image}, MiB": (images / image).stat().st_size / (1 << 20)
        for image in _IMAGES
        if (images / image).exists()
    }
    print(f"\n{machine()}; accelerator: {bench.accelerator}\n")
    print(table(agents))
    disks = print_table(*((100, 1) if arguments.quick else (500, 3)), _tell)
    if arguments.json:
        document = {"machine": machine(), "accelerator": bench.accelerator, "agents": agents}
        document["disks"] = disks
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


class Bench:
    """Boots VMs and measures them.

    Args:
        images: Directory of the boot files.
        directory: Where VMs keep their sockets.
        sizes: How much to measure.
    """

    def __init__(self, images: Path, directory: Path, sizes: Sizes) -> None:
        self.images = images
        self.directory = directory
        self.sizes = sizes
        self.kernel = require_image_file(images, "vmlinux")
        self.accelerator = "tcg"

    async def boot_only(self, initrd: Path) -> Rows:
        """Boot a VM, and return how long its phases took."""
        vm = await self._start(initrd)
        await vm.stop()
        return _boot_rows(vm.timings)

    async def measure(
        self, initrd: Path, measurements: Sequence[Measurement] = _MEASUREMENTS
    ) -> tuple[Rows, Rows]:
        """Boot a VM and measure; returns the boot's rows, and all others."""
        layer = await layer_image(require_image_file(self.images, "busybox.tar"))
        vm = await self._start(initrd, RootDisks((layer,), None))
        try:
            await mount_layer(vm.guest, _LAYER)
            # The layer itself is attached already.
            copy = shutil.copy(layer, self.directory / "layer.img")
            bench = Workbench(vm, _LAYER, Path(copy))
            rows: Rows = {}
            for measurement in measurements:
                start = time.monotonic()
                rows |= await measurement(bench, self.sizes)
                took = time.monotonic() - start
                _tell(f"  {measurement.__name__.replace('_', ' ')}: {took:.0f} s")
        finally:
            await vm.stop()
        return _boot_rows(vm.timings), rows

    async def network(self, initrd: Path) -> Rows:
        """Boot a VM that takes network adapters, and measure those."""
        layer = await layer_image(require_image_file(self.images, "busybox.tar"))
        vm = await self._start(initrd, RootDisks((layer,), None), network_ports=1)
        try:
            await mount_layer(vm.guest, _LAYER)
            return await network_adapters(Workbench(vm, _LAYER, layer), self.sizes)
        finally:
            await vm.stop()

    async def _start(
        self, initrd: Path, disks: RootDisks | None = None, network_ports: int = 0
    ) -> UtilityVm:
        self.accelerator = await choose_accelerator(self.kernel, _tell)
        machine_ = Machine(
            kernel=self.kernel,
            initrd=initrd,
            accelerator=self.accelerator,
            network_ports=network_ports,
        )
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        vm = UtilityVm(machine_, directory, vsock=choose_vsock(), timings=Timings())
        await vm.boot(disks)
        return vm


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _boot_rows(timings: Timings) -> Rows:
    marks = timings.as_dict()
    order = ["entropy served", "log connected", "negotiated"]
    names = ["power-on → init fetches entropy, ms", "init → agent starts, ms"]
    names.append("agent starts → Negotiate answered, ms")
    rows: Rows = {}
    before = 0.0
    for mark, name in zip(order, names, strict=True):
        rows[name] = (marks[mark] - before) * 1000
        before = marks[mark]
    rows["power-on → Negotiate answered, ms"] = before * 1000
    return rows


def _medians(samples: Iterable[Rows]) -> Rows:
    collected: dict[str, list[float]] = {}
    for rows in samples:
        for name, value in rows.items():
            collected.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in collected.items()}


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.rpartition("=")
    found = Path(path)
    if not found.is_file():
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return (name if separator else found.stem), found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--initrd",
        metavar="[NAME=]FILE",
        type=_named_path,
        action="append",
        default=[],
        help="another image, measured in turn; ratios to it are printed",
    )
    parser.add_argument(
        "--containers",
        metavar="[NAME=]FILE",
        type=_named_path,
        action="append",
        default=[],
        help="another image, of which the lives of containers are measured only",
    )
    parser.add_argument("--image-dir", help="directory of the boot files (default: out)")
    parser.add_argument("--boots", type=int, default=5, help="boots per image (default: 5)")
    parser.add_argument("--quick", action="store_true", help="few repetitions, rough figures")
    parser.add_argument("--json", type=Path, help="write the figures to a file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
