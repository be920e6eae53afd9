"""A network namespace of a container or a pod, in the steps of a real host (spec 2.6, 2.7)."""

import uuid
from typing import TYPE_CHECKING

from gcs.protocol.errors import GcsError
from gcs.protocol.settings import ADD, REMOVE, NetworkAdapter
from uvm.errors import UvmError
from uvm.guest import Guest
from uvm.network.adapter import Adapter, settings
from uvm.network.plugs import NetworkPlugs

if TYPE_CHECKING:
    from uvm.vm.nic import Nic


class NetworkNamespace:
    """A namespace with its adapters.

    Args:
        plugs: The VM's adapters.
        guest: The VM's agent.
        namespace_id: A GUID; by default a new one.
    """

    def __init__(self, plugs: NetworkPlugs, guest: Guest, namespace_id: str | None = None) -> None:
        self.id = namespace_id or str(uuid.uuid4())
        self._plugs = plugs
        self._guest = guest
        self._adapters: dict[str, tuple[Nic, NetworkAdapter]] = {}

    @property
    def adapter_ids(self) -> list[str]:
        """Ids of the adapters, in the order of their addition."""
        return list(self._adapters)

    async def add(self, adapter: Adapter, adapter_id: str | None = None) -> str:
        """Plug an adapter in and have the agent give it to the namespace.

        When it fails, nothing of it is left.

        Args:
            adapter: The adapter.
            adapter_id: A GUID; by default a new one.

        Returns:
            The adapter's id.

        Raises:
            UvmError: The host, or QEMU, could not.
            RemoteError: The agent could not.
        """
        nic = await self._plugs.plug(adapter)
        adapter_id = adapter_id or str(uuid.uuid4())
        request = settings(adapter, namespace_id=self.id, adapter_id=adapter_id, mac=nic.mac)
        try:
            await self._guest.client.modify_settings(ADD, "Network", request)
        except BaseException:
            await self._plugs.unplug(nic)
            raise
        self._adapters[adapter_id] = (nic, request)
        return adapter_id

    async def remove_adapter(self, adapter_id: str) -> None:
        """Have the agent forget an adapter, and take it out of the VM.

        Raises:
            UvmError: The VM did not let go of it.
            RemoteError: The agent could not do its part; the adapter is taken out all the same.
        """
        nic, request = self._adapters.pop(adapter_id)
        try:
            await self._guest.client.modify_settings(REMOVE, "Network", request)
        finally:
            await self._plugs.unplug(nic)

    async def remove(self) -> None:
        """Remove all adapters, whatever fails.

        Raises:
            UvmError, RemoteError: The first failure.
        """
        errors: list[Exception] = []
        for adapter_id in self.adapter_ids:
            try:
                await self.remove_adapter(adapter_id)
            except (UvmError, GcsError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
