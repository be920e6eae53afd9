"""A utility VM: a machine, the agent inside it, its disks and its containers."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from uvm.container import Container, ScsiAddress, new_container_id
from uvm.errors import BootError, UvmError
from uvm.guest import Guest
from uvm.layers import SharedLayers
from uvm.logs import LogEntry
from uvm.network.adapter import Adapter
from uvm.network.namespace import NetworkNamespace
from uvm.network.plugs import NetworkPlugs
from uvm.timings import Timings
from uvm.vm.machine import Disk, Machine
from uvm.vm.virtual_machine import VirtualMachine, VsockKind

#: Longest time from QEMU's start to an agent that has negotiated, in seconds.
BOOT_LIMIT: Final = 60.0
#: Disks of one controller.
LUNS: Final = 64
_LAST_LOG: Final = 2.0
#: Drivers of persistent memory, by whether it is for direct access.
_PMEM_DRIVERS: Final = {False: ("nfit", "nd_pmem"), True: ("virtio_pmem", "nd_pmem")}

T = TypeVar("T")


@dataclass
class RootDisks:
    """Disks of one container.

    Attributes:
        layers: Read-only images of its root file system, top-most first.
        scratch: Image to write on, whose name is removed once the VM has it open; ``None`` makes
            the root read-only.
    """

    layers: tuple[Path, ...]
    scratch: Path | None


class UtilityVm:
    """A VM whose agent answers.

    Args:
        machine: What to boot.
        directory: Where its sockets and files go.
        vsock: Which vsock device.
        on_log: Called with each entry of the agent's log.
        timings: Where to record the phases.
    """

    def __init__(
        self,
        machine: Machine,
        directory: Path,
        *,
        vsock: VsockKind = "user",
        on_log: Callable[[LogEntry], None] | None = None,
        timings: Timings | None = None,
    ) -> None:
        self.timings = timings or Timings()
        self.directory = directory
        self.containers: dict[str, Container] = {}
        self._disks: dict[str, list[Disk]] = {}
        self._boot_disks: dict[Path, Disk] = {}
        self._stuck: list[Disk] = []
        self._pmem_drivers: set[str] = set()
        self._layers_of: dict[str, tuple[Path, ...]] = {}
        self._machine = machine
        self.vm = VirtualMachine(machine, directory, vsock=vsock)
        self.guest = Guest(self.vm.host, on_log=on_log, timings=self.timings)
        self.plugs = NetworkPlugs(self.vm)
        self._layers = SharedLayers(self.guest, self._attach_layer, self._detach_layer)

    async def boot(self, disks: RootDisks | None = None, adapters: Sequence[Adapter] = ()) -> None:
        """Start the machine and wait until the agent has negotiated.

        Args:
            disks: Disks of a container that is to be run, attached from the start.
            adapters: Its network adapters, likewise.

        Raises:
            BootError: It did not come up in time, or ended; carries the console's last lines.
            UvmError: QEMU did not start, or the host lacks what an adapter needs.
        """
        if disks is not None:
            self._attach_at_boot(disks)
        self.plugs.build_in(adapters)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            self.guest.listen()
            await self.vm.start()
            if disks is not None and disks.scratch is not None:
                os.unlink(disks.scratch)
            self.timings.mark("spawned")
            try:
                async with asyncio.timeout(BOOT_LIMIT):
                    await self.while_alive(self.guest.accept(), "the agent")
            except TimeoutError:
                raise BootError(
                    f"the agent did not connect within {BOOT_LIMIT:g} s", self.vm.console_tail()
                ) from None
            undo.pop_all()

    async def stop(self) -> None:
        """End the VM at once, with all that runs in it."""
        await self.vm.stop()
        await self.guest.drain_log(_LAST_LOG)
        await self.guest.close()

    async def power_off(self, limit: float) -> None:
        """Have the agent power the VM off, then clean up; after a time limit it is cut off."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self.guest.client.power_off()
                await self.vm.wait()
        await self.stop()

    async def while_alive(self, awaitable: Awaitable[T], what: str) -> T:
        """Wait for something that only a living VM brings about.

        Raises:
            BootError: The VM ended first.
        """
        task: asyncio.Future[T] = asyncio.ensure_future(awaitable)
        end = asyncio.create_task(self.vm.end(what))
        waiting: set[asyncio.Future[Any]] = {task, end}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise end.result()
        finally:
            for pending in waiting:
                pending.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def network_namespace(self, namespace_id: str | None = None) -> NetworkNamespace:
        """Return a network namespace, for a pod.

        Args:
            namespace_id: A GUID; by default a new one.
        """
        return NetworkNamespace(self.plugs, self.guest, namespace_id)

    async def prepare_container(
        self,
        disks: RootDisks,
        container_id: str | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> Container:
        """Attach a container's disks and network adapters, where they are not yet.

        The guest mounts the disks, and keeps the adapters for the container. Everything is taken
        back when a step fails.

        Args:
            disks: Its disks.
            container_id: Its id.
            adapters: Its network adapters.

        Raises:
            RemoteError: The agent could not do its part.
            UvmError: The host, or QEMU, could not.
        """
        network = self.network_namespace() if adapters else None
        container = Container(self.guest, container_id or new_container_id(), network=network)
        self._disks[container.id] = []
        try:
            if network is not None:
                for adapter in adapters:
                    await network.add(adapter)
                self.timings.mark("network attached")
            for image in disks.layers:
                await self._layers.attach(image)
                container.when_removed(partial(self._layers.release, image))
            scratch = None
            if disks.scratch is not None:
                scratch = await self._attach(container.id, disks.scratch, read_only=False)
            self.timings.mark("disks attached")
            mounted = [await self._layers.mount(image) for image in disks.layers]
            if scratch is not None:
                await container.mount_scratch(scratch)
            await container.combine(mounted, writable=scratch is not None)
            self.timings.mark("disks mounted")
        except BaseException:
            await self._discard(container)
            raise
        self.containers[container.id] = container
        self._layers_of[container.id] = disks.layers
        return container

    async def remove_container(self, container: Container) -> None:
        """End a container, unmount and unplug its disks and network adapters.

        Raises:
            RemoteError: The agent could not do its part.
            UvmError: QEMU could not.
        """
        self.containers.pop(container.id, None)
        self._layers_of.pop(container.id, None)
        await self._discard(container)

    async def attach_disk(self, owner: str, image: Path, *, read_only: bool) -> ScsiAddress:
        """Attach a disk that is no single container's.

        Args:
            owner: Any name, for :meth:`detach_disks`.
            image: The disk; the name of one to write on is removed once the VM has it open.
            read_only: Whether the guest may only read it.
        """
        self._disks.setdefault(owner, [])
        return await self._attach(owner, image, read_only=read_only)

    async def detach_disks(self, owner: str) -> None:
        """Detach the disks of an owner; to be called when nothing of them is mounted.

        All of them are tried. What does not come off keeps its address, and is tried again with
        the next disks.

        Raises:
            UvmError: The first failure.
        """
        disks = self._disks.get(owner, [])
        errors: list[UvmError] = []
        for disk in (*self._stuck, *reversed(disks)):
            try:
                await self.vm.remove_disk(disk)
            except UvmError as error:
                if disk in disks:
                    errors.append(error)
                    self._stuck.append(disk)
            else:
                # An address is free again only when its disk is gone.
                if disk in self._stuck:
                    self._stuck.remove(disk)
            if disk in disks:
                disks.remove(disk)
        self._disks.pop(owner, None)
        if errors:
            raise errors[0]

    async def plug_pmem(
        self, image: Path, *, read_only: bool = True, direct_access: bool = False
    ) -> int:
        """Plug an image in as persistent memory; see :meth:`VirtualMachine.plug_pmem`.

        Args:
            image: A raw image, for example a file system.
            read_only: Whether the image stays as it is.
            direct_access: Whether the guest's programs can be given the memory itself.

        Returns:
            Its device number.

        Raises:
            UvmError: No slot is free, the image's size does not fit, QEMU refused it, or the
                guest's kernel has no driver.
        """
        drivers = _PMEM_DRIVERS[direct_access]
        if not self._pmem_drivers.issuperset(drivers):
            # A kernel whose driver comes after the device does not notice it any more.
            command = ["/sbin/modprobe", "-a", *drivers]
            process = await self.guest.execute_in_vm(command, stdout=False)
            result = await process.communicate()
            if result.exit_code != 0:
                text = result.stderr.decode("utf-8", "replace").strip()
                raise UvmError(f"the VM has no driver for persistent memory: {text}")
            self._pmem_drivers.update(drivers)
        return await self.vm.plug_pmem(image, read_only=read_only, direct_access=direct_access)

    def find_container(self, prefix: str) -> list[Container]:
        """Return the containers whose ids begin with a prefix."""
        return [item for key, item in self.containers.items() if key.startswith(prefix)]

    def layers_of(self, container: Container) -> tuple[Path, ...]:
        """Return the images of a container's root file system, top-most first."""
        return self._layers_of[container.id]

    async def _attach_layer(self, image: Path) -> ScsiAddress:
        return await self.attach_disk(_layer_owner(image), image, read_only=True)

    async def _detach_layer(self, image: Path) -> None:
        await self.detach_disks(_layer_owner(image))

    async def _discard(self, container: Container) -> None:
        try:
            await container.remove()
        finally:
            await self.detach_disks(container.id)

    async def _attach(self, container_id: str, image: Path, *, read_only: bool) -> ScsiAddress:
        disks = self._disks[container_id]
        disk = self._boot_disks.pop(image, None)
        if disk is not None:
            disks.append(disk)
        else:
            disk = replace(self._free_address(), path=image, read_only=read_only)
            disks.append(disk)
            try:
                await self.vm.add_disk(disk)
            except BaseException:
                disks.remove(disk)
                raise
            if not read_only:
                os.unlink(image)
        return ScsiAddress(disk.controller, disk.lun)

    def _attach_at_boot(self, disks: RootDisks) -> None:
        images = [(layer, True) for layer in disks.layers]
        if disks.scratch is not None:
            images.append((disks.scratch, False))
        for image, read_only in images:
            self._boot_disks[image] = replace(self._free_address(), path=image, read_only=read_only)
        self.vm.machine = replace(self.vm.machine, disks=tuple(self._boot_disks.values()))

    def _free_address(self) -> Disk:
        attached = [disk for disks in self._disks.values() for disk in disks] + self._stuck
        used = {(disk.controller, disk.lun) for disk in (*attached, *self._boot_disks.values())}
        for controller in range(self._machine.controllers):
            for lun in range(LUNS):
                if (controller, lun) not in used:
                    return Disk(path=Path(), controller=controller, lun=lun)
        raise UvmError(
            f"all {self._machine.controllers * LUNS} disk addresses of the VM are in use"
        )


def _layer_owner(image: Path) -> str:
    return f"layer {image}"
