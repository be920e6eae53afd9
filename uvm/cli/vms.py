"""Commands about VMs that stay."""

import argparse
import contextlib
import dataclasses
import shlex
import sys
from typing import Any

import msgspec

from uvm.cli.attach import attach
from uvm.cli.options import boot_options
from uvm.cli.process import process_options
from uvm.cli.progress import Progress
from uvm.errors import UvmError
from uvm.keeper.client import KeptVm, kept_vms, the_vm
from uvm.keeper.config import start_keeper
from uvm.keeper.messages import Execute, Listing
from uvm.logs import LogDecoder, LogEntry
from uvm.timings import Timings

_SHORT_ID = 12


async def boot(arguments: argparse.Namespace, _: list[str]) -> int:
    """Boot a VM that stays."""
    with Progress(verbose=arguments.verbose) as progress:
        progress.step("booting a VM")
        marks = await start_keeper(arguments.name, boot_options(arguments), progress.say)
    timings = Timings()
    timings.merge(marks)
    if arguments.json:
        sys.stdout.write(timings.to_json() + "\n")
    elif arguments.timings:
        sys.stderr.write(timings.to_text() + "\n")
    if not arguments.json:
        sys.stdout.write(f"{arguments.name}\n")
    return 0


async def execute(arguments: argparse.Namespace, command: list[str]) -> int:
    """Run a process in a VM, or in a container; returns its exit code."""
    if not command:
        raise UvmError("nothing to run: uvm exec [options] [NAME] -- COMMAND...")
    options = process_options(arguments, command)
    if arguments.workdir is None:
        # The keeper knows the container's.
        options = dataclasses.replace(options, working_directory="")
    request = Execute(
        container=arguments.container,
        options=options,
        user=arguments.user,
        stdin=arguments.interactive,
    )
    process = await KeptVm(the_vm(arguments.name)).start(request)
    with contextlib.closing(process):
        return await attach(process, tty=arguments.tty)


async def show_processes(arguments: argparse.Namespace, _: list[str]) -> int:
    """List VMs, containers and processes."""
    names = kept_vms() if arguments.name is None else [arguments.name]
    listings = [await KeptVm(name).list() for name in names]
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(listings).decode() + "\n")
        return 0
    rows = [("VM", "CONTAINER", "PID", "PORTS", "COMMAND")]
    for listing in listings:
        rows += _rows(listing)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]).rstrip() + "\n")
    return 0


def _rows(listing: Listing) -> list[tuple[str, str, str, str, str]]:
    about = f"({listing.accelerator}, {listing.memory_mib} MiB, up {listing.uptime:.0f} s)"
    rows = [(listing.name, "-", "-", "-", about)]
    for container in listing.containers:
        for process in container.processes:
            short, ports = container.id[:_SHORT_ID], " ".join(container.ports) or "-"
            command = shlex.join(process.command) or "?"
            rows.append((listing.name, short, str(process.pid), ports, command))
    return rows + [
        (listing.name, "-", str(process.pid), "-", shlex.join(process.command))
        for process in listing.processes
    ]


async def kill(arguments: argparse.Namespace, _: list[str]) -> int:
    """Send a signal to a container or a process."""
    await KeptVm(the_vm(arguments.name)).kill(arguments.target, arguments.signal)
    return 0


async def show_stacks(arguments: argparse.Namespace, _: list[str]) -> int:
    """Print the agent's stacks."""
    text = await KeptVm(the_vm(arguments.name)).stacks()
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0


async def show_logs(arguments: argparse.Namespace, _: list[str]) -> int:
    """Print the agent's log."""
    vm = KeptVm(the_vm(arguments.name))
    decoder = LogDecoder()
    async for text in vm.logs(follow=arguments.follow):
        if arguments.json:
            sys.stdout.write(text)
        else:
            for entry in decoder.feed(text.encode()):
                sys.stdout.write(_line(entry) + "\n")
        sys.stdout.flush()
    return 0


def _line(entry: LogEntry) -> str:
    stamp: Any = entry.fields.pop("vm.time", None)
    text = entry.to_text()
    # The time that counts is the guest's; the host's is only that of the arrival.
    return f"{stamp} {text.split(' ', 1)[1]}" if isinstance(stamp, str) else text


async def stop(arguments: argparse.Namespace, _: list[str]) -> int:
    """End a VM."""
    await KeptVm(the_vm(arguments.name)).stop(force=arguments.force)
    return 0
