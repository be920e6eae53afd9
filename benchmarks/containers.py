"""Containers for measurements: a busybox root file system, mounted once, under an overlay each."""

from dataclasses import dataclass

from gcs.protocol.settings import ADD, REMOVE, CombinedLayers, Layer
from uvm.container import Container, new_container_id
from uvm.guest import Guest
from uvm.spec import ContainerOptions, ProcessOptions


@dataclass(frozen=True)
class Workbench:
    """A guest and the read-only layer that its containers share.

    Attributes:
        guest: The agent under test.
        layer: Where the layer is mounted in the VM.
    """

    guest: Guest
    layer: str

    async def prepare(self) -> Container:
        """Mount a root file system for a container; its scratch space is in memory."""
        container = Container(self.guest, new_container_id())
        await self._modify(
            ADD,
            CombinedLayers(
                container_id=container.id,
                container_root_path=container.rootfs_path,
                layers=[Layer(path=self.layer)],
                scratch_path=container.scratch_path,
            ),
        )
        return container

    async def create(self, container: Container, *arguments: str) -> None:
        """Create the container, to run a command."""
        await container.create(ContainerOptions(ProcessOptions(arguments)))

    async def discard(self, container: Container) -> None:
        """End the container if it runs, and remove every trace of it."""
        await container.remove()
        await self._modify(REMOVE, CombinedLayers(container_root_path=container.rootfs_path))

    async def _modify(self, request_type: str, settings: CombinedLayers) -> None:
        await self.guest.client.modify_settings(request_type, "CombinedLayers", settings)
