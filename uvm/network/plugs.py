"""The network adapters of one VM, and where they are plugged in."""

from collections.abc import Sequence
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
        self._present: list[Nic] = []
        self._stuck: list[Nic] = []

    def build_in(self, adapters: Sequence[Adapter]) -> None:
        """Have adapters there from the start of the VM, for :meth:`plug` to find.

        Raises:
            UvmError: The host lacks what one of them needs.
        """
        for adapter in adapters:
            check_network(adapter.network)
            nic = self._nic(adapter, None)
            self._present.append(nic)
            self._built_in.append((adapter, nic))
        nics = tuple(nic for _, nic in self._built_in)
        self._vm.machine = replace(self._vm.machine, nics=nics)

    async def plug(self, adapter: Adapter) -> Nic:
        """Plug an adapter in, unless it was built in.

        Raises:
            UvmError: The host lacks what it needs, no port is left, or QEMU refused it.
        """
        for number, (built_in, nic) in enumerate(self._built_in):
            if built_in == adapter:
                del self._built_in[number]
                return nic
        check_network(adapter.network)
        if self._free_port() is None:
            await self._retry_stuck()
        port = self._free_port()
        if port is None:
            raise UvmError(
                "no port is left for another network adapter: the VM was booted with "
                f"{self._vm.machine.network_ports} (`uvm boot --network-ports` gives it more, "
                "--network none needs none)"
            )
        nic = self._nic(adapter, port)
        # Taken before the first await, so that two calls at once get two ports.
        self._present.append(nic)
        try:
            await self._vm.add_nic(nic)
        except BaseException as error:
            # QEMU may have got further than we know, if we were interrupted.
            await self.take_back(nic, error)
            raise
        return nic

    async def take_back(self, nic: Nic, error: BaseException) -> None:
        """Unplug an adapter because of an error, which gets a note if that fails, too."""
        try:
            await self.unplug(nic)
        except UvmError as left:
            error.add_note(f"left in the VM: {left}")

    async def unplug(self, nic: Nic) -> None:
        """Take an adapter out; one that was built in stays until the end of the VM.

        Raises:
            UvmError: The guest did not let go of it. It is cut off from its network, and tried
                again when its port is needed.
        """
        if nic.port is None:
            return
        try:
            await self._vm.remove_nic(nic)
        except BaseException:
            if nic not in self._stuck:
                self._stuck.append(nic)
            raise
        if nic in self._stuck:
            self._stuck.remove(nic)
        self._present.remove(nic)

    async def _retry_stuck(self) -> None:
        for nic in self._stuck[:]:
            try:
                await self.unplug(nic)
            except UvmError:
                # Still stuck, and listed as such; maybe the next one is not.
                continue

    def _nic(self, adapter: Adapter, port: int | None) -> Nic:
        used = {nic.mac for nic in self._present}
        if adapter.mac in used:
            raise UvmError(
                f"the VM has a network adapter with hardware address {adapter.mac} already"
            )
        mac = adapter.mac or random_mac()
        while mac in used:
            mac = random_mac()
        self._count += 1
        return Nic(f"net{self._count}", mac, adapter.network, port)

    def _free_port(self) -> int | None:
        used = {nic.port for nic in self._present}
        ports = range(self._vm.machine.network_ports)
        return next((port for port in ports if port not in used), None)
