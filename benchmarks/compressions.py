"""Compares compressions of the initrd by size and boot: `python -m benchmarks.compressions`.

The image boots as a host has it: compressed, with the modules for QEMU, uncompressed, before it.
"""

import argparse
import asyncio
import resource
import statistics
import tempfile
from pathlib import Path

from benchmarks.__main__ import Bench
from benchmarks.measure import Sizes
from benchmarks.report import machine
from scripts.image.compression import COMPRESSIONS, compress
from uvm.paths import image_directory, require_image_file

_PHASE = "power-on → init fetches entropy, ms"


def main() -> None:
    """Boot each in turn, and print a table of medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compressions", description=__doc__)
    parser.add_argument("--boots", type=int, default=5, help="boots of each (default: %(default)s)")
    parser.add_argument("--cpio", type=Path, default=Path("build/initrd.cpio"))
    arguments = parser.parse_args()
    images = image_directory(None)
    modules = require_image_file(images, "modules.cpio").read_bytes()
    with tempfile.TemporaryDirectory(prefix="uvm-bench-") as name:
        directory = Path(name)
        initrds = {}
        for kind in COMPRESSIONS:
            packed = directory / f"packed-{kind}"
            compress(kind, arguments.cpio, packed)
            initrds[kind] = directory / f"initrd-{kind}"
            initrds[kind].write_bytes(modules + packed.read_bytes())
        bench = Bench(images, directory, Sizes())
        times: dict[str, list[float]] = {kind: [] for kind in COMPRESSIONS}
        processor: dict[str, list[float]] = {kind: [] for kind in COMPRESSIONS}
        for _ in range(arguments.boots):
            for kind, initrd in initrds.items():
                before = _processor_time()
                times[kind].append(asyncio.run(bench.boot_only(initrd))[_PHASE])
                processor[kind].append(_processor_time() - before)
        print(f"{machine()}; accelerator: {bench.accelerator}\n")
        print("| `COMPRESSION` | initrd.img, MiB | power-on → init, ms | processor time, ms |")
        print("| --- | ---: | ---: | ---: |")
        for kind, each in times.items():
            size = (directory / f"packed-{kind}").stat().st_size / (1 << 20)
            used = statistics.median(processor[kind])
            print(f"| {kind} | {size:.1f} | {statistics.median(each):.0f} | {used:.0f} |")


def _processor_time() -> float:
    """Return the processor time of all children that have ended, in milliseconds.

    On a machine that others use it says more than the clock; it is that of a whole short life.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


if __name__ == "__main__":
    main()
