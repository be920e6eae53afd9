"""Containers for measurements: a busybox root file system, mounted once, under an overlay each."""

import signal
import uuid
from dataclasses import dataclass
from pathlib import Path

from gcs.protocol.settings import ADD, REMOVE, CombinedLayers, Layer
from uvm.container import Container, new_container_id
from uvm.guest import Guest
from uvm.spec import ContainerOptions, ProcessOptions, container_document
from uvm.utility_vm import UtilityVm


async def mount_layer(guest: Guest, path: str) -> None:
    """Mount the VM's only disk, by a program in the VM.

    The reference finds disks by names that only Hyper-V has, so a request would not do.
    """
    script = f"mkdir -p {path} && mount -t ext4 -o ro,noload /dev/sda {path}"
    process = await guest.execute_in_vm(["/bin/sh", "-c", script])
    completed = await process.communicate()
    if completed.exit_code != 0:
        raise RuntimeError(f"the layer can't be mounted: {completed.stderr.decode()}")


@dataclass(frozen=True)
class Workbench:
    """A VM and the read-only layer that its containers share.

    Attributes:
        vm: The VM.
        layer: Where the layer is mounted in the VM.
        image: The layer's image.
    """

    vm: UtilityVm
    layer: str
    image: Path

    @property
    def guest(self) -> Guest:
        """The agent under test."""
        return self.vm.guest

    async def prepare(self) -> Container:
        """Mount a root file system for a container; its scratch space is in memory."""
        container = Container(self.guest, new_container_id())
        await self._modify(
            ADD,
            CombinedLayers(
                container_id=container.id,
                container_root_path=container.place.rootfs,
                layers=[Layer(path=self.layer)],
                scratch_path=container.place.scratch_path,
            ),
        )
        return container

    async def create(self, container: Container, *arguments: str) -> None:
        """Create the container, to run a command.

        Each names a network namespace of its own: the reference can't make a second container
        that names none.
        """
        options = ContainerOptions(ProcessOptions(arguments))
        document = container_document(options, container.place.rootfs)
        document["windows"] = {"network": {"networkNamespace": str(uuid.uuid4())}}
        await container.create_from(document)

    async def discard(self, container: Container) -> None:
        """Kill the container if it runs, and remove every trace of it."""
        if container.init is not None and await container.init.signal(signal.SIGKILL):
            container.init.close()
            await container.init.wait()
            await container.wait_exit()
        await self.unmount(container)
        await container.remove()

    async def unmount(self, container: Container) -> None:
        """Unmount the root file system of a container that has ended."""
        await self._modify(REMOVE, CombinedLayers(container_root_path=container.place.rootfs))

    async def _modify(self, request_type: str, settings: CombinedLayers) -> None:
        await self.guest.client.modify_settings(request_type, "CombinedLayers", settings)
