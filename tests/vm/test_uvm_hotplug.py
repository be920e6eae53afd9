"""Disks and persistent memory, plugged into a running VM and pulled again."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from uvm.boot import BootOptions, build_machine
from uvm.errors import UvmError
from uvm.utility_vm import UtilityVm
from uvm.vm.disks import scratch_image
from uvm.vm.machine import PMEM_ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: A message, once the device is there; the request after the plug is on its way at once.
READ = "until [ -b {0} ]; do sleep 0.05; done; head -c 16 {0}; blockdev --getro {0}"


@pytest.fixture
async def utility(image: Path) -> AsyncIterator[UtilityVm]:
    machine, vsock = await build_machine(BootOptions(image_dir=str(image)), lambda _: None)
    async with contextlib.AsyncExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="uvm-"))
        utility = UtilityVm(replace(machine, pmem_slots=2), Path(directory), vsock=vsock)
        undo.push_async_callback(utility.stop)
        await utility.boot()
        yield utility


async def shell(utility: UtilityVm, script: str) -> str:
    process = await utility.guest.execute_in_vm(["/bin/sh", "-c", script])
    result = await process.communicate()
    assert result.exit_code == 0, result.stderr.decode()
    return result.stdout.decode()


async def test_plugged_and_pulled(utility: UtilityVm, tmp_path: Path) -> None:
    images = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_bytes(f"I am image {number:4}\n".encode())
        os.truncate(path, PMEM_ALIGNMENT)
        images.append(path)
    assert await utility.plug_pmem(images[0]) == 0
    assert await shell(utility, READ.format("/dev/pmem0")) == "I am image    0\n1\n"
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1000)
    with pytest.raises(UvmError, match="multiples of 2 MiB"):
        await utility.plug_pmem(odd)
    assert await utility.plug_pmem(images[1], read_only=False) == 1
    assert await shell(utility, READ.format("/dev/pmem1")) == "I am image    1\n0\n"
    await shell(utility, "printf changed | dd of=/dev/pmem1 conv=notrunc 2>/dev/null; sync")
    assert images[1].read_bytes()[:7] == b"changed"
    with pytest.raises(UvmError, match="no slot is left"):
        await utility.plug_pmem(images[2])

    # A disk that is pulled behind the guest's back, then again by the book.
    image = await scratch_image(tmp_path / "scratch", 64)
    address = await utility.attach_disk("somebody", image, read_only=False)
    assert (address.controller, address.lun) == (0, 0)
    (disk,) = utility._disks["somebody"]
    await utility.vm.remove_disk(disk)
    await utility.detach_disks("somebody")
    again = await utility.attach_disk("somebody", images[2], read_only=True)
    assert again == address
    await utility.detach_disks("somebody")
