"""The network adapters of one VM, and where they are plugged in."""

from dataclasses import replace
from typing import Final

from uvm.errors import UvmError
from uvm.network.adapter import Adapter, random_mac
from uvm.network.checks import check_network
from uvm.vm.nic import Nic
from uvm.vm.virtual_machine import VirtualMachine

#: How many adapters can be plugged into a VM that stays, unless it was booted with another number.
DEFAULT_PORTS: Final = 8


class NetworkPlugs:
    """Builds adapters in before the start of a VM, and plugs others in and out while it runs.

    Args:
        vm: The VM.
    """

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self._count = 0
        self._built_in: list[tuple[Adapter, Nic]] = []
        self._used: dict[int, Nic] = {}
        self._stuck: list[Nic] = []

    def build_in(self, adapters: list[Adapter]) -> None:
        """Have adapters there from the start of the VM, for :meth:`plug` to find.

        Raises:
            UvmError: The host lacks what one of them needs.
        """
        for adapter in adapters:
            check_network(adapter.network)
            self._built_in.append((adapter, self._nic(adapter)))
        nics = tuple(nic for _, nic in self._built_in)
        self._vm.machine = replace(self._vm.machine, nics=nics)

    async def plug(self, adapter: Adapter) -> Nic:
        """Plug an adapter in, unless it was built in.

        Raises:
            UvmError: The host lacks what it needs, no root port is left, or QEMU refused it.
        """
        for number, (built_in, nic) in enumerate(self._built_in):
            if built_in == adapter:
                del self._built_in[number]
                return nic
        check_network(adapter.network)
        await self._retry_stuck()
        port = self._free_port()
        nic = self._used[port] = self._nic(adapter, port)
        try:
            await self._vm.add_nic(nic)
        except BaseException:
            del self._used[port]
            raise
        return nic

    async def unplug(self, nic: Nic) -> None:
        """Take an adapter out; one that was built in stays until the end of the VM.

        Raises:
            UvmError: The guest did not let go of it; it is tried again before the next is plugged.
        """
        if nic.port is None:
            return
        try:
            await self._vm.remove_nic(nic)
        except UvmError:
            if nic not in self._stuck:
                self._stuck.append(nic)
            raise
        if nic in self._stuck:
            self._stuck.remove(nic)
        del self._used[nic.port]

    async def _retry_stuck(self) -> None:
        for nic in self._stuck[:]:
            await self.unplug(nic)

    def _nic(self, adapter: Adapter, port: int | None = None) -> Nic:
        self._count += 1
        return Nic(f"net{self._count}", adapter.mac or random_mac(), adapter.network, port)

    def _free_port(self) -> int:
        ports = self._vm.machine.network_ports
        for port in range(ports):
            if port not in self._used:
                return port
        raise UvmError(
            f"no port is left for another network adapter: the VM was booted with {ports}; "
            "`uvm boot --network-ports` gives it more"
        )
