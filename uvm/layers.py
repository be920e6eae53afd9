"""Read-only layers of a VM: each is attached and mounted once, whoever has it (spec 2.6)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from gcs.protocol.settings import MappedVirtualDisk
from uvm.container import LayerPaths, ScsiAddress, map_disk, unmap_disk
from uvm.guest import Guest


@dataclass
class _Layer:
    address: ScsiAddress
    users: int = 0
    disk: MappedVirtualDisk | None = None


class SharedLayers:
    """The layers that containers of a VM have in common.

    Args:
        guest: The VM's agent.
        attach: Attaches an image to the VM.
        detach: Detaches it.
    """

    def __init__(
        self,
        guest: Guest,
        attach: Callable[[Path], Awaitable[ScsiAddress]],
        detach: Callable[[Path], Awaitable[None]],
    ) -> None:
        self.paths = LayerPaths()
        self._guest = guest
        self._attach = attach
        self._detach = detach
        self._layers: dict[Path, _Layer] = {}
        # A layer must not come while it goes.
        self._lock = asyncio.Lock()

    async def attach(self, image: Path) -> None:
        """Attach a layer, unless it is; each call needs one of :meth:`release`.

        Raises:
            UvmError: No address is free, or QEMU refused.
        """
        async with self._lock:
            layer = self._layers.get(image)
            if layer is None:
                layer = self._layers[image] = _Layer(await self._attach(image))
            layer.users += 1

    async def mount(self, image: Path) -> str:
        """Mount an attached layer, unless it is, and return where.

        Raises:
            RemoteError: The agent refused.
        """
        async with self._lock:
            layer = self._layers[image]
            if layer.disk is None:
                disk = MappedVirtualDisk(
                    mount_path=self.paths.take(),
                    controller=layer.address.controller,
                    lun=layer.address.lun,
                    read_only=True,
                    options=["ro"],
                )
                await map_disk(self._guest, disk)
                layer.disk = disk
            return layer.disk.mount_path

    async def release(self, image: Path) -> None:
        """Give a layer up; with its last user it is unmounted and detached.

        Raises:
            RemoteError: The agent could not do its part; who needs the layer next finds it mounted.
            UvmError: QEMU could not.
        """
        async with self._lock:
            layer = self._layers[image]
            layer.users -= 1
            if layer.users > 0:
                return
            if layer.disk is not None:
                await unmap_disk(self._guest, layer.disk)
                layer.disk = None
            del self._layers[image]
            await self._detach(image)
