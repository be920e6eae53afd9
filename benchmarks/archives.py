"""From a layer's archive to its disk: `tar2ext4` beside unpacking and `mkfs.ext4 -d`.

`python -m benchmarks.archives --help`.
"""

import argparse
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import MIB, Rows
from benchmarks.report import machine, table

_EPOCH: Final = 1_600_000_000
_TAR2EXT4: Final = (sys.executable, "-m", "tar2ext4")
_CONVERT: Final = "tar2ext4"
_UNPACK_AND_MAKE: Final = "tar -x, mkfs.ext4 -d"
_MAKE: Final = "mkfs.ext4 -d"
_MAKE_IMAGE: Final = (
    "import sys; from pathlib import Path; from uvm.vm.disks import make_image;"
    "make_image(Path(sys.argv[1]), Path(sys.argv[2]))"
)
_UNPACK: Final = "tar -x -f {} -C {} --numeric-owner --xattrs --xattrs-include=*"


def many_small_files(path: Path, size: int) -> None:
    """Write an archive like that of a package tree: 12 kB a file, twenty to a directory."""
    dice = random.Random(1)
    blob = dice.randbytes(8 * MIB)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        number = written = 0
        directory = ""
        while written < size:
            if number % 20 == 0:
                directory = f"usr/lib/part{number // 20 % 40}/package{number // 20}"
                archive.addfile(_entry(directory, tarfile.DIRTYPE, 0o755))
            length = min(int(dice.expovariate(1 / 12_000)), 200_000)
            at = dice.randrange(len(blob) - length)
            entry = _entry(f"{directory}/module_{number}.py", tarfile.REGTYPE, 0o644)
            entry.size = length
            archive.addfile(entry, io.BytesIO(blob[at : at + length]))
            if number % 15 == 0:
                entry = _entry(f"{directory}/link_{number}", tarfile.SYMTYPE, 0o777)
                entry.linkname = f"module_{number}.py"
                archive.addfile(entry)
            number += 1
            written += length


def few_large_files(path: Path, size: int) -> None:
    """Write an archive with ten files."""
    blob = random.Random(2).randbytes(size // 10)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(10):
            entry = _entry(f"large_{number}", tarfile.REGTYPE, 0o644)
            entry.size = len(blob)
            archive.addfile(entry, io.BytesIO(blob))


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, _EPOCH
    return entry


def layers(mebibytes: int, directory: Path, rounds: int = 3) -> dict[str, Rows]:
    """Measure; returns for each way its rows.

    Args:
        mebibytes: Data of each archive.
        directory: Where archives, trees and images go.
        rounds: How often, in turn; the shortest times count.
    """
    results: dict[str, Rows] = {_CONVERT: {}, _UNPACK_AND_MAKE: {}, _MAKE: {}}
    for label, write in (
        ("many small files", many_small_files),
        ("few large files", few_large_files),
    ):
        archive = directory / "layer.tar"
        write(archive, mebibytes * MIB)
        for _ in range(rounds):
            _round(label, archive, directory, results)
        archive.unlink()
    return results


def _round(label: str, archive: Path, directory: Path, results: dict[str, Rows]) -> None:
    image, tree = directory / "image", directory / "tree"
    tree.mkdir()
    make = (sys.executable, "-c", _MAKE_IMAGE, str(tree), str(image))
    unpack = _UNPACK.format(archive, tree).split()
    _keep(results[_CONVERT], label, _run((*_TAR2EXT4, "-i", str(archive), "-o", str(image))))
    unpacked, made = _run(unpack), _run(make)
    _keep(results[_UNPACK_AND_MAKE], label, [a + b for a, b in zip(unpacked, made, strict=True)])
    _keep(results[_MAKE], label, made)
    memory = max(unpacked[2], made[2])
    results[_UNPACK_AND_MAKE][f"{label}: peak memory, MiB"] = memory
    shutil.rmtree(tree)
    image.unlink()


def _keep(rows: Rows, label: str, figures: Sequence[float]) -> None:
    for name, figure in zip(("s", "CPU s", "peak memory, MiB"), figures, strict=True):
        key = f"{label}: {name}"
        rows[key] = min(rows.get(key, figure), figure)


#: A process inherits the peak of the one that starts it, so that a small one has to; below its own
#: 10 MiB nothing is seen.
_LAUNCHER: Final = """
import os, sys, time
start = time.monotonic()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _run(command: Sequence[str]) -> list[float]:
    """Seconds, seconds of CPU, and peak memory in MiB of a command and what it starts."""
    os.sync()
    launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER)
    output = subprocess.run((*launcher, *command), check=True, stdout=subprocess.PIPE).stdout
    return [float(figure) for figure in output.split()]


def print_table(mebibytes: int, rounds: int, tell: Callable[[str], None]) -> dict[str, Rows]:
    """Measure in a temporary directory and print a table."""
    tell(f"measuring layers of {mebibytes} MiB …")
    with tempfile.TemporaryDirectory(prefix="uvm-bench-") as directory:
        results = layers(mebibytes, Path(directory), rounds)
    print(f"\n{table(results)}")
    return results


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archives", description=__doc__)
    parser.add_argument("--mib", type=int, default=500, help="size of each layer (default: 500)")
    parser.add_argument("--rounds", type=int, default=3, help="the best of (default: 3)")
    arguments = parser.parse_args()
    print(machine())
    print_table(arguments.mib, arguments.rounds, lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    main()
