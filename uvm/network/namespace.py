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
    """A namespace with its adapters; it can be used again after :meth:`remove`.

    Args:
        plugs: The VM's adapters.
        guest: The VM's agent.
        namespace_id: A GUID; by default a new one.
    """

    def __init__(self, plugs: NetworkPlugs, guest: Guest, namespace_id: str | None = None) -> None:
        self.id = namespace_id or str(uuid.uuid4())
        self._plugs = plugs
        self._guest = guest
        self._adapters: dict[str, tuple[Adapter, Nic]] = {}

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Adapters by their ids, in the order of their addition."""
        return {adapter_id: adapter for adapter_id, (adapter, _) in self._adapters.items()}

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
        adapter_id = adapter_id or str(uuid.uuid4())
        nic = await self._plugs.plug(adapter)
        request = settings(adapter, namespace_id=self.id, adapter_id=adapter_id, mac=nic.mac)
        try:
            await self._guest.client.modify_settings(ADD, "Network", request)
        except BaseException as error:
            await self._plugs.take_back(nic, error)
            raise
        self._adapters[adapter_id] = (adapter, nic)
        return adapter_id

    async def remove_adapter(self, adapter_id: str) -> None:
        """Have the agent forget an adapter, and take it out of the VM.

        Raises:
            UvmError: There is no such adapter, or the VM did not let go of it.
            RemoteError: The agent could not do its part; the adapter is taken out all the same.
        """
        found = self._adapters.pop(adapter_id, None)
        if found is None:
            raise UvmError(f"network namespace {self.id} has no adapter {adapter_id}")
        # A real host repeats no more than this (spec 2.7).
        request = NetworkAdapter(namespace_id=self.id, id=adapter_id)
        try:
            await self._guest.client.modify_settings(REMOVE, "Network", request)
        finally:
            await self._plugs.unplug(found[1])

    async def remove(self) -> None:
        """Remove all adapters, whatever fails.

        Raises:
            UvmError, RemoteError: The first failure.
        """
        errors: list[Exception] = []
        for adapter_id in self.adapters:
            try:
                await self.remove_adapter(adapter_id)
            except (UvmError, GcsError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
