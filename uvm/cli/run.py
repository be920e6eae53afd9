"""``uvm run``."""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import secrets
import sys
from typing import Final

from gcs.protocol.errors import RemoteError
from uvm.boot import DEFAULT_ROOTFS, BootOptions, build_machine
from uvm.cli.attach import attach
from uvm.cli.options import boot_options
from uvm.cli.process import DEFAULT_COMMAND, process_options
from uvm.cli.progress import Progress
from uvm.cli.volumes import parse_volumes
from uvm.container import Container
from uvm.errors import UvmError
from uvm.image.command import Wishes, resolve_command
from uvm.image.documents import ProcessConfig
from uvm.image.load import RootFileSystem, load_root, split_source
from uvm.keeper.client import KeptVm
from uvm.keeper.messages import Run
from uvm.network.adapter import Adapter
from uvm.network.checks import check_network
from uvm.network.options import NO_NETWORK, USER_NETWORK, choose_adapters
from uvm.paths import cache_directory
from uvm.spec import ContainerOptions
from uvm.timings import Timings
from uvm.users import resolve_user
from uvm.utility_vm import LUNS, RootDisks, UtilityVm
from uvm.vm.directory import RunDirectory
from uvm.vm.disks import scratch_image
from uvm.vm.machine import MOST_CONTROLLERS

_NOTIFICATION_GRACE: Final = 5.0
_MIB: Final = 1 << 20


async def run(arguments: argparse.Namespace, command: list[str]) -> int:
    """Run a container; returns its exit code."""
    if arguments.detach and arguments.name is None:
        raise UvmError("--detach needs --name: a VM of its own ends with the command")
    adapters = _adapters(arguments)
    volumes = parse_volumes(arguments.volume)
    timings = Timings()
    with Progress(verbose=arguments.verbose) as progress:
        options = boot_options(arguments)
        if arguments.name is None:
            # Said before the work on the root file system, which can take long.
            options.find("vmlinux", options.kernel)
        progress.step("preparing the root file system")
        async with contextlib.AsyncExitStack() as undo:
            root, disks = await _prepare_disks(arguments, options, undo, progress)
            container = await _container_options(arguments, command, root)
            container = dataclasses.replace(container, volumes=volumes)
            timings.mark("disks prepared")
            if arguments.name is not None:
                return await _run_in_kept(arguments, container, disks, adapters, progress)
            return await _run_in_own(arguments, container, disks, adapters, progress, timings)


def _adapters(arguments: argparse.Namespace) -> list[Adapter]:
    """Return the network adapters that are asked for; said at once if the host can't have them."""
    try:
        # A VM that stays has few places for adapters, and any number of containers.
        default = USER_NETWORK if arguments.name is None else NO_NETWORK
        adapters = choose_adapters(arguments.network, arguments.publish, default)
    except ValueError as error:
        raise UvmError(str(error)) from None
    for adapter in adapters:
        check_network(adapter.network)
    return adapters


async def _prepare_disks(
    arguments: argparse.Namespace,
    options: BootOptions,
    undo: contextlib.AsyncExitStack,
    progress: Progress,
) -> tuple[RootFileSystem, RootDisks]:
    if arguments.rootfs is None:
        source, reference = options.find(DEFAULT_ROOTFS, None), None
    else:
        source, reference = split_source(arguments.rootfs)
    root = await load_root(source, reference, progress.step)
    directory = cache_directory() / "scratch"
    directory.mkdir(exist_ok=True)
    path = directory / f"{secrets.token_hex(8)}.ext4"
    undo.callback(path.unlink, missing_ok=True)
    return root, RootDisks(root.layers, await scratch_image(path, arguments.scratch))


async def _container_options(
    arguments: argparse.Namespace, command: list[str], root: RootFileSystem
) -> ContainerOptions:
    given = process_options(arguments, command)
    wishes = Wishes(
        command=tuple(command),
        entrypoint=arguments.entrypoint,
        environment=given.environment,
        working_directory=arguments.workdir,
        user=arguments.user,
    )
    wanted = resolve_command(root.config or ProcessConfig(cmd=list(DEFAULT_COMMAND)), wishes)
    process = dataclasses.replace(
        given,
        arguments=wanted.arguments,
        environment=wanted.environment,
        working_directory=wanted.working_directory,
        user=await resolve_user(root.layers, wanted.user),
    )
    return ContainerOptions(
        process=process,
        hostname=arguments.hostname,
        memory_limit=_memory_limit(arguments),
        read_only=arguments.read_only,
        stop_signal=wanted.stop_signal,
    )


def _memory_limit(arguments: argparse.Namespace) -> int | None:
    return None if arguments.memory_limit is None else arguments.memory_limit * _MIB


async def _run_in_own(
    arguments: argparse.Namespace,
    options: ContainerOptions,
    disks: RootDisks,
    adapters: list[Adapter],
    progress: Progress,
    timings: Timings,
) -> int:
    machine, vsock = await build_machine(boot_options(arguments), progress.say)
    machine = dataclasses.replace(machine, controllers=_controllers(disks))
    async with contextlib.AsyncExitStack() as undo:
        directory = RunDirectory.create()
        undo.callback(directory.remove)
        utility = UtilityVm(machine, directory.path, vsock=vsock, timings=timings)
        progress.step(f"booting a VM ({machine.accelerator})")
        await utility.boot(disks, adapters)
        undo.push_async_callback(utility.stop)
        container = await utility.while_alive(
            _start(utility, options, disks, adapters, progress), "the container"
        )
        exit_code = await utility.while_alive(
            _interact(container, arguments, utility), "the container's end"
        )
    timings.mark("VM ended")
    if arguments.timings:
        text = timings.to_json() if arguments.json else timings.to_text()
        sys.stderr.write(text + "\n")
    return exit_code


def _controllers(disks: RootDisks) -> int:
    """Return how many SCSI controllers the disks of a container need."""
    count = len(disks.layers) + 1
    if count > MOST_CONTROLLERS * LUNS:
        raise UvmError(
            f"the image has {len(disks.layers)} layers, and a VM can have "
            f"{MOST_CONTROLLERS * LUNS - 1} of them"
        )
    return -(-count // LUNS)


async def _start(
    utility: UtilityVm,
    options: ContainerOptions,
    disks: RootDisks,
    adapters: list[Adapter],
    progress: Progress,
) -> Container:
    progress.step("mounting the disks")
    container = await utility.prepare_container(disks, adapters=adapters)
    progress.step("creating the container")
    await container.create(options)
    utility.timings.mark("container created")
    progress.clear()
    return container


async def _interact(container: Container, arguments: argparse.Namespace, utility: UtilityVm) -> int:
    process = await container.start(terminal=arguments.tty, stdin=arguments.interactive)
    utility.timings.mark("container started")
    exit_code = await attach(process, tty=arguments.tty)
    utility.timings.mark("container exited")
    # The VM goes away with everything in it, so nothing needs to be unmounted.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_NOTIFICATION_GRACE):
            await container.wait_exit()
    _tell_out_of_memory(container.out_of_memory_kills)
    return exit_code


def _tell_out_of_memory(kills: int) -> None:
    """Say why a container may have ended as it did: its exit code does not tell."""
    if kills:
        processes = "a process" if kills == 1 else f"{kills} processes"
        sys.stderr.write(
            f"uvm: the container ran out of memory, and the kernel killed {processes} of it; "
            "--memory-limit and --memory give more\n"
        )


async def _run_in_kept(
    arguments: argparse.Namespace,
    options: ContainerOptions,
    disks: RootDisks,
    adapters: list[Adapter],
    progress: Progress,
) -> int:
    progress.step(f"starting the container in VM {arguments.name}")
    request = Run(
        layers=[os.fspath(layer) for layer in disks.layers],
        scratch=os.fspath(disks.scratch) if disks.scratch else "",
        options=options,
        adapters=adapters,
        stdin=arguments.interactive and not arguments.detach,
        detach=arguments.detach,
    )
    process = await KeptVm(arguments.name).start(request)
    with contextlib.closing(process):
        progress.clear()
        if arguments.detach:
            sys.stdout.write(f"{process.container_id}\n")
            return 0
        exit_code = await attach(process, tty=arguments.tty)
        try:
            _tell_out_of_memory(await process.finished())
        except (UvmError, RemoteError) as error:
            # The container's own end stands; what is left of it in the VM should be known.
            progress.say(f"the container ended, and its removal failed: {error}")
    return exit_code
