"""Boots of the image that a person does not see from the command line alone."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.vm.conftest import ROOT
from uvm.utility_vm import UtilityVm
from uvm.vm.machine import DEFAULT_AGENT, Machine

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_processor_without_random_numbers(image: Path, tmp_path: Path) -> None:
    machine = Machine(
        kernel=image / "vmlinux",
        initrd=image / "initrd-qemu.img",
        processor="max,-rdrand,-rdseed",
    )
    vm = UtilityVm(machine, tmp_path)
    await vm.boot()
    try:
        process = await vm.guest.execute_in_vm(["/bin/echo", "alive"])
        completed = await process.communicate()
    finally:
        await vm.stop()
    assert completed.stdout == b"alive\n"


def test_the_first_command_of_the_readme() -> None:
    """`make run` prints what a container sees, and how long each phase took."""
    result = subprocess.run(
        ["make", "run"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert result.returncode == 0, result.stderr
    for seen in ("Linux ", "host name: ", "memory limit: "):
        assert seen in result.stdout
    for phase in ("negotiated", "container started", "container exited"):
        assert phase in result.stderr


async def test_the_command_line_of_a_host_with_a_console(image: Path, tmp_path: Path) -> None:
    """A shell is the primary process, the agent one of its children (spec 2.1)."""
    machine = Machine(
        kernel=image / "vmlinux",
        initrd=image / "initrd-qemu.img",
        agent=("sh", "-c", f'"{" ".join(DEFAULT_AGENT)} & exec sh"'),
    )
    vm = UtilityVm(machine, tmp_path)
    await vm.boot()
    try:
        process = await vm.guest.execute_in_vm(["/bin/ps", "-o", "ppid,comm"])
        completed = await process.communicate()
    finally:
        await vm.stop()
    assert ["1", "sh"] in [line.split() for line in completed.stdout.decode().splitlines()]
