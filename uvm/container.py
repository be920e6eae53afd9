"""A container, in the steps of a real host (spec 2.4, 2.6)."""

import asyncio
import contextlib
import itertools
import secrets
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from gcs.protocol.errors import RemoteError
from gcs.protocol.hresult import HResult
from gcs.protocol.message import SchemaVersion
from gcs.protocol.requests import ContainerSettings, ProcessParameters
from gcs.protocol.responses import Notification
from gcs.protocol.settings import (
    ADD,
    REMOVE,
    UPDATE,
    CombinedLayers,
    ContainerConstraints,
    ContainerState,
    Layer,
    MappedDirectory,
    MappedVirtualDisk,
    ScsiDevice,
)
from uvm.errors import UvmError
from uvm.guest import Guest
from uvm.network.namespace import NetworkNamespace
from uvm.process import Process
from uvm.recovery import RecoverableProcess
from uvm.spec import (
    ContainerOptions,
    ProcessOptions,
    Volume,
    bind_mount,
    container_document,
    process_document,
)

#: Limit of a shutdown in a teardown, in seconds (spec 2.10).
SHUTDOWN_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class ScsiAddress:
    """Where a disk is attached to a VM."""

    controller: int
    lun: int


@dataclass(frozen=True)
class ContainerPlace:
    """Where a container is in the guest (spec 2.4).

    Attributes:
        root: Its bundle.
        scratch_mount: Where the disk is mounted that it writes on.
        scratch_path: Its directory there.
        shares: Directory for directories of the host, which are there by their names; ``None``:
            they are in its bundle, by their numbers.
    """

    root: str
    scratch_mount: str
    scratch_path: str
    shares: str | None = None

    @property
    def rootfs(self) -> str:
        """Where its root file system is mounted."""
        return f"{self.root}/rootfs"

    def share_mount(self, number: int, name: str) -> str:
        """Where a directory of the host is mounted, by its number here and its name there."""
        return f"{self.root}/mounts/m{number}" if self.shares is None else f"{self.shares}/{name}"


def place_of_its_own(container_id: str) -> ContainerPlace:
    """Return where a container is that is in no pod."""
    root = f"/run/gcs/c/{container_id}"
    return ContainerPlace(root, root, f"{root}/scratch/{container_id}")


def new_container_id() -> str:
    """Return a random id of the form hosts use: 64 hexadecimal digits."""
    return secrets.token_hex(32)


class LayerPaths:
    """Mount points for read-only layers: ``/run/mounts/scsi/m<N>``, counted per VM."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def take(self) -> str:
        """Return the next one."""
        return f"/run/mounts/scsi/m{next(self._numbers)}"


async def map_disk(guest: Guest, disk: MappedVirtualDisk) -> None:
    """Have the agent mount a disk."""
    await guest.client.modify_settings(ADD, "MappedVirtualDisk", disk)


async def unmap_disk(guest: Guest, disk: MappedVirtualDisk) -> None:
    """Have the agent unmount and eject a disk that :func:`map_disk` has mounted."""
    # A real host repeats only these when it removes a disk (spec 2.6).
    again = MappedVirtualDisk(
        mount_path=disk.mount_path,
        controller=disk.controller,
        lun=disk.lun,
        read_only=disk.read_only,
    )
    await guest.client.modify_settings(REMOVE, "MappedVirtualDisk", again)
    device = ScsiDevice(controller=disk.controller, lun=disk.lun)
    await guest.client.modify_settings(REMOVE, "SCSIDevice", device)


class Container:
    """A container and what is mounted in the guest for it.

    Args:
        guest: The VM's agent.
        container_id: Its id.
        place: Where it is in the guest; by default a place of its own.
        network: Its network namespace, whose adapters go with it; ``None``: it has no network.
        delete_first: Have the agent forget the container before its disks are unmounted, as the
            v2 shim does; by default it is the last step, as of the v1 shim (spec 2.6).
    """

    def __init__(
        self,
        guest: Guest,
        container_id: str,
        place: ContainerPlace | None = None,
        *,
        network: NetworkNamespace | None = None,
        delete_first: bool = False,
    ) -> None:
        self.guest = guest
        self.id = container_id
        self.network = network
        self.place = place or place_of_its_own(container_id)
        self.init: Process | None = None
        self._delete_first = delete_first
        self._combined: CombinedLayers | None = None
        self._undo: list[Callable[[], Awaitable[None]]] = []
        self._created = False
        self._exit: Notification | None = None
        self._stop_signal: int | None = None

    @property
    def root(self) -> str:
        """Its bundle in the guest."""
        return self.place.root

    @property
    def ended(self) -> bool:
        """Whether the notification of its end was collected."""
        return self._exit is not None

    @property
    def rootfs_path(self) -> str:
        """Where the root file system is mounted in the guest."""
        return self.place.rootfs

    async def mount(
        self, layers: list[ScsiAddress], scratch: ScsiAddress | None, paths: LayerPaths
    ) -> None:
        """Mount disks as the container's root file system.

        Args:
            layers: Read-only disks with ext4, top-most first.
            scratch: A disk to write on; ``None`` makes the root read-only.
            paths: Source of mount points.
        """
        mounted = []
        for address in layers:
            mounted.append(paths.take())
            await self.mount_layer(address, mounted[-1])
        if scratch is not None:
            await self.mount_scratch(scratch)
        await self.combine(mounted, writable=scratch is not None)

    def when_removed(self, step: Callable[[], Awaitable[None]]) -> None:
        """Take a step when the container is removed; the last one is taken first."""
        self._undo.append(step)

    async def mount_layer(self, address: ScsiAddress, path: str) -> None:
        """Mount a read-only disk with ext4; it is unmounted when the container is removed."""
        disk = MappedVirtualDisk(
            mount_path=path,
            controller=address.controller,
            lun=address.lun,
            read_only=True,
            options=["ro"],
        )
        await self._map_disk(disk)

    async def mount_scratch(self, address: ScsiAddress) -> None:
        """Mount the disk the container writes on, and maybe the others of its pod."""
        disk = MappedVirtualDisk(
            mount_path=self.place.scratch_mount,
            controller=address.controller,
            lun=address.lun,
            ensure_filesystem=True,
            filesystem="ext4",
        )
        await self._map_disk(disk)

    async def combine(self, layers: list[str], *, writable: bool) -> None:
        """Lay directories of the guest over each other as the root file system.

        Args:
            layers: The directories, top-most first.
            writable: Put a layer from the scratch disk on top.
        """
        combined = CombinedLayers(
            container_id=self.id,
            container_root_path=self.rootfs_path,
            layers=[Layer(path=path) for path in layers],
            scratch_path=self.place.scratch_path if writable else "",
        )
        await self._modify(ADD, combined)
        # The v1 shim names the root only when it takes it away again (spec 2.6).
        root_only = CombinedLayers(container_root_path=self.rootfs_path)
        self._combined = combined if self._delete_first else root_only

    async def create(self, options: ContainerOptions) -> None:
        """Share its volumes with the guest and create it; its init is not running yet.

        Raises:
            UvmError: A volume can't be shared.
            RemoteError: The agent refused.
        """
        namespace_id = None if self.network is None else self.network.id
        mounts = await self.mount_volumes(options.volumes)
        document = container_document(options, self.rootfs_path, namespace_id, mounts=mounts)
        self._stop_signal = options.stop_signal
        await self.create_from(document)

    async def mount_volumes(self, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
        """Share what is the host's and mount it in the guest, until it is removed.

        Returns:
            Mounts for an OCI specification; what others are mounted in comes before them.

        Raises:
            UvmError: One can't be shared.
            RemoteError: The agent refused.
        """
        mounts = []
        for number, volume in enumerate(sorted(volumes, key=lambda item: item.target.count("/"))):
            path = await self._mount_volume(number, volume)
            mounts.append(bind_mount(volume, path))
        return mounts

    async def create_from(self, specification: dict[str, Any]) -> None:
        """Create the container from a specification of one's own."""
        settings = ContainerSettings(
            schema_version=SchemaVersion(major=2, minor=1),
            oci_bundle_path=self.root,
            oci_specification=specification,
            scratch_dir_path=self.place.scratch_path,
        )
        await self.guest.client.create_container(self.id, settings)
        self._created = True

    async def start(
        self, *, terminal: bool = False, stdin: bool = False, output: bool = True
    ) -> Process:
        """Start the container's init.

        Args:
            terminal: Whether the specification asks for one: stderr is no stream of its own then.
            stdin: Offer standard input.
            output: Take standard output, and standard error without a terminal.
        """
        await self.guest.client.start_container(self.id)
        self.init = await self.guest.execute(
            self.id,
            ProcessParameters(),
            stdin=stdin,
            stdout=output,
            stderr=output and not terminal,
        )
        return self.init

    async def start_recoverable(self, *, stdin: bool = False) -> RecoverableProcess:
        """Start the container's init with streams that survive :meth:`Guest.reconnect`."""
        await self.guest.client.start_container(self.id)
        process = await self.guest.start_recoverable(self.id, stdin=stdin)
        self.init = process
        return process

    async def pause(self) -> None:
        """Freeze its processes; a request that hosts of the reference don't know."""
        await self._modify_container(UPDATE, ContainerState(state="Paused"))

    async def resume(self) -> None:
        """Let its processes go on after :meth:`pause`."""
        await self._modify_container(UPDATE, ContainerState(state="Running"))

    async def update(self, resources: dict[str, Any]) -> None:
        """Set its limits.

        Args:
            resources: Of an OCI specification: memory in bytes, CPU in shares.
        """
        await self._modify_container(UPDATE, ContainerConstraints(linux=resources))

    async def statistics(self) -> dict[str, Any]:
        """Return what its control group says, in the form of cgroup v1 metrics (spec 1.8)."""
        return (await self.guest.client.get_properties(self.id, "Statistics")).metrics or {}

    async def kill(self) -> int:
        """End its init by SIGKILL and return the exit code."""
        if self.init is None:
            raise UvmError(f"container {self.id} has not started yet")
        await self.init.signal(signal.SIGKILL)
        exit_code = await self.init.wait()
        await self.wait_exit()
        return exit_code

    async def execute(
        self, options: ProcessOptions, *, stdin: bool = False, output: bool = True
    ) -> Process:
        """Start another process in the container."""
        terminal = options.terminal_size is not None
        return await self.guest.execute(
            self.id,
            ProcessParameters(oci_process=process_document(options)),
            stdin=stdin,
            stdout=output,
            stderr=output and not terminal,
        )

    async def process_ids(self) -> list[int]:
        """Return the ids of the container's processes, in the VM's numbering."""
        properties = await self.guest.client.get_properties(self.id, "ProcessList")
        return [process.process_id for process in properties.process_list]

    async def wait_exit(self) -> Notification:
        """Wait for the notification of the container's end."""
        if self._exit is None:
            self._exit = await self.guest.client.wait_for_exit(self.id)
        return self._exit

    @property
    def out_of_memory_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory; known after its end."""
        kills = 0 if self._exit is None else self._exit.out_of_memory_kills
        return kills if isinstance(kills, int) else 0

    async def remove(self) -> None:
        """End the container if it runs, and have nothing left of it.

        Its network adapters are taken away, its disks unmounted, and the agent forgets it. All of
        that is tried, whatever fails.

        Raises:
            RemoteError, UvmError: The first failure.
        """
        errors: list[Exception] = []
        if self._created and self.init is not None and self._exit is None:
            await _attempt(self._shut_down, errors)
        if self.network is not None:
            await _attempt(self.network.remove, errors)
        combined, self._combined = self._combined, None
        if combined is not None:
            await _attempt(lambda: self._modify(REMOVE, combined), errors)
        if self._delete_first:
            await self._delete(errors)
        while self._undo:
            await _attempt(self._undo.pop(), errors)
        if not self._delete_first:
            await self._delete(errors)
        if self.init is not None:
            self.init.close()
        if errors:
            raise errors[0]

    async def _delete(self, errors: list[Exception]) -> None:
        if self._created:
            self._created = False
            await _attempt(lambda: self.guest.client.delete_container_state(self.id), errors)
            self.guest.client.forget_container(self.id)

    async def _shut_down(self) -> None:
        for graceful in (True, False):
            try:
                if graceful and self._stop_signal is not None and self.init is not None:
                    await self.init.signal(self._stop_signal)
                else:
                    await self.guest.client.shutdown_container(self.id, graceful=graceful)
            except RemoteError as error:
                if error.hresult not in _GONE:
                    raise
            exited = asyncio.ensure_future(self._collect_exit())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(exited, SHUTDOWN_TIMEOUT)
                return

    async def _collect_exit(self) -> None:
        # Without an answered wait there is no notification (spec 4.10).
        if self.init is not None:
            await self.init.wait()
        await self.wait_exit()

    async def _mount_volume(self, number: int, volume: Volume) -> str:
        shares = self.guest.shares
        source = Path(volume.source)
        # A real host shares the directory of a file, too, and lets nothing else of it be seen.
        file = source.name if await asyncio.to_thread(source.is_file) else None
        directory = source if file is None else source.parent
        name = await shares.add(directory, read_only=volume.read_only, file=file)
        self.when_removed(partial(shares.remove, name))
        settings = MappedDirectory(
            mount_path=self.place.share_mount(number, name),
            port=shares.port,
            share_name=name,
            read_only=volume.read_only,
        )
        modify = self.guest.client.modify_settings
        await modify(ADD, "MappedDirectory", settings)
        self.when_removed(partial(modify, REMOVE, "MappedDirectory", settings))
        return settings.mount_path if file is None else f"{settings.mount_path}/{file}"

    async def _map_disk(self, disk: MappedVirtualDisk) -> None:
        await map_disk(self.guest, disk)
        self.when_removed(lambda: unmap_disk(self.guest, disk))

    async def _modify(self, request_type: str, settings: CombinedLayers) -> None:
        await self.guest.client.modify_settings(request_type, "CombinedLayers", settings)

    async def _modify_container(
        self, request_type: str, settings: ContainerState | ContainerConstraints
    ) -> None:
        await self.guest.client.modify_settings(
            request_type, type(settings).__name__, settings, container_id=self.id
        )


_GONE: Final = (HResult.SYSTEM_NOT_FOUND, HResult.SYSTEM_ALREADY_STOPPED, HResult.NOT_FOUND)


async def _attempt(step: Callable[[], Awaitable[None]], errors: list[Exception]) -> None:
    try:
        await step()
    except Exception as error:  # noqa: BLE001 - the steps behind it still have to be tried
        errors.append(error)
