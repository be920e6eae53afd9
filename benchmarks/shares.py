"""A directory of the host, shared by 9p: how fast its files are read, written and found."""

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.containers import Workbench
from benchmarks.measure import MIB, Rows, Sizes
from gcs.protocol.settings import ADD, REMOVE, MappedDirectory

_MOUNT: Final = "/run/bench-share"
_FILES: Final = 200


async def shared_directory(bench: Workbench, sizes: Sizes) -> Rows:
    """Measure a shared directory, by programs in the VM."""
    shares = bench.guest.shares
    with tempfile.TemporaryDirectory(prefix="uvm-bench-") as name:
        directory = Path(name)
        (directory / "file").write_bytes(os.urandom(sizes.stream_mib * MIB))
        (directory / "many").mkdir()
        for number in range(_FILES):
            (directory / "many" / str(number)).touch()
        share = await shares.add(directory)
        settings = MappedDirectory(mount_path=_MOUNT, port=shares.port, share_name=share)
        await bench.guest.client.modify_settings(ADD, "MappedDirectory", settings)
        try:
            read = await _time(bench, f"dd if={_MOUNT}/file of=/dev/null bs=1M")
            copy = f"dd if=/dev/zero of={_MOUNT}/new bs=1M count={sizes.stream_mib}"
            written = await _time(bench, copy)
            listed = await _time(bench, f"ls -l {_MOUNT}/many")
        finally:
            await bench.guest.client.modify_settings(REMOVE, "MappedDirectory", settings)
            await shares.remove(share)
    return {
        "read from a shared directory, MiB/s": sizes.stream_mib / read,
        "written to a shared directory, MiB/s": sizes.stream_mib / written,
        "file of a shared directory, by ls -l, ms": listed / _FILES * 1000,
    }


async def _time(bench: Workbench, command: str) -> float:
    start = time.perf_counter()
    process = await bench.guest.execute_in_vm(["/bin/sh", "-c", command])
    completed = await process.communicate()
    if completed.exit_code != 0:
        raise RuntimeError(f"{command}: {completed.stderr.decode()}")
    return time.perf_counter() - start
