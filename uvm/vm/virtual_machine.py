"""A running QEMU with its vsock device."""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Final, Literal

from uvm.errors import BootError, ListenError, UvmError
from uvm.listen import BRIDGE_PORT, HostPorts, UnixHostPorts, VsockHostPorts
from uvm.vm.child import Child, tail
from uvm.vm.machine import (
    GUEST_CID,
    PMEM_ALIGNMENT,
    Disk,
    Machine,
    Pmem,
    Wiring,
    block_device_options,
    pmem_backend_options,
    pmem_device_options,
    qemu_command_line,
    scsi_disk_options,
)
from uvm.vm.nic import Nic, netdev_options, nic_device_options
from uvm.vm.qmp import Monitor, RefusedError

VsockKind = Literal["user", "kernel", "none"]

PANIC: Final = "Kernel panic"
_DEVICE_START: Final = 10.0
_UNPLUG: Final = 10.0
_POLL: Final = 0.01


def choose_vsock() -> VsockKind:
    """Return ``kernel`` where vhost-vsock is there and its ports are free, else ``user``.

    AF_VSOCK ports are the whole host's, and an agent's are fixed: a second VM can't have them.
    """
    if not os.access("/dev/vhost-vsock", os.R_OK | os.W_OK):
        return "user"
    try:
        VsockHostPorts(GUEST_CID).listen(BRIDGE_PORT).close()
    except ListenError:
        return "user"
    return "kernel"


class VirtualMachine:
    """One machine, from its start to its end.

    Args:
        machine: What to run.
        directory: Where sockets, console and output go; it belongs to this VM alone.
        vsock: Which vsock device: ``user`` is our own, ``kernel`` is vhost-vsock.
    """

    def __init__(self, machine: Machine, directory: Path, *, vsock: VsockKind = "user") -> None:
        self.machine = machine
        self.directory = directory
        self.console = directory / "console.log"
        self._vsock: VsockKind = vsock
        self._monitor = Monitor()
        self._qemu: Child | None = None
        self._pmem_count = 0
        self._undo = contextlib.AsyncExitStack()
        self.host: HostPorts = (
            VsockHostPorts(GUEST_CID) if vsock == "kernel" else UnixHostPorts(directory / "vsock")
        )

    async def start(self) -> None:
        """Start QEMU, and the vsock device before it; the guest runs when this returns.

        Raises:
            UvmError: A program is missing, or ended at once; nothing is left then.
        """
        async with contextlib.AsyncExitStack() as undo:
            vsock_socket = None
            if self._vsock == "user":
                vsock_socket = await self._start_vsock_device(undo)
            await self._start_qemu(undo, vsock_socket)
            self._undo = undo.pop_all()

    async def wait(self) -> int:
        """Wait for QEMU's end and return its exit status."""
        return await self._running().wait()

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._running().pid

    async def stop(self) -> None:
        """End QEMU and the device; disks keep what the guest wrote out."""
        if self._qemu is not None and self._qemu.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._monitor.quit()
                    await self._qemu.wait()
        await self._undo.aclose()

    async def end(self, what: str) -> BootError:
        """Wait for QEMU's end and return it as an error.

        Args:
            what: What the caller waits for meanwhile.
        """
        await self.wait()
        return BootError(
            f"the VM ended while waiting for {what} ({self._running().complaint()})",
            self.console_tail(),
        )

    def console_tail(self, lines: int = 20) -> str:
        """Return the last lines of the serial console; without the call trace of a panic."""
        rows = tail(self.console, 200).splitlines()
        panics = [number for number, row in enumerate(rows) if PANIC in row]
        if panics:
            rows = rows[: panics[0] + 1]
        return "\n".join(rows[-lines:])

    async def add_disk(self, disk: Disk) -> None:
        """Plug a disk in; the guest sees it some milliseconds later.

        Raises:
            UvmError: QEMU refused it, for example because the address is taken.
        """
        await self._monitor.execute("blockdev-add", block_device_options(disk))
        try:
            await self._monitor.execute("device_add", scsi_disk_options(disk))
        except BaseException:
            await self._monitor.execute("blockdev-del", {"node-name": disk.name})
            raise

    async def remove_disk(self, disk: Disk) -> None:
        """Unplug a disk that the guest has ejected; can be called again after it has failed.

        Raises:
            UvmError: QEMU refused, or the disk was not let go in time.
        """
        await self._unplug(f"dev-{disk.name}", f"disk {disk.path}")
        if disk.name in await self._block_nodes():
            await self._monitor.execute("blockdev-del", {"node-name": disk.name})

    async def add_nic(self, nic: Nic) -> None:
        """Plug a network adapter into its root port; the guest sees it some milliseconds later.

        Raises:
            UvmError: QEMU refused it.
        """
        await self._monitor.execute("netdev_add", netdev_options(nic))
        try:
            await self._monitor.execute("device_add", nic_device_options(nic))
        except BaseException:
            await self._monitor.execute("netdev_del", {"id": nic.name})
            raise

    async def remove_nic(self, nic: Nic) -> None:
        """Unplug a network adapter; can be called again after it has failed.

        Whether the guest lets go of it or not, it is cut off from the host's network, and its
        published ports are free, when this ends.

        Raises:
            UvmError: QEMU refused, or the guest did not let go in time.
        """
        try:
            await self._unplug(nic.device, f"network adapter {nic.mac}")
        finally:
            await self._remove_netdev(nic)

    async def _remove_netdev(self, nic: Nic) -> None:
        try:
            await self._monitor.execute("netdev_del", {"id": nic.name})
        except RefusedError as error:
            # An earlier try, which the guest has let down, came this far.
            if error.kind != "DeviceNotFound":
                raise

    async def plug_pmem(
        self, path: Path, *, read_only: bool = True, direct_access: bool = False
    ) -> int:
        """Plug an image in as persistent memory; it stays until the end of the VM.

        QEMU can't unplug it. The guest sees it some milliseconds later.

        Args:
            path: A raw image, for example a file system.
            read_only: Whether the image stays as it is.
            direct_access: See :class:`~uvm.vm.machine.Pmem`.

        Returns:
            Its device number: the guest's ``/dev/pmem<number>``.

        Raises:
            UvmError: No slot is free, the image's size does not fit, or QEMU refused it.
        """
        size = await asyncio.to_thread(os.path.getsize, path)
        slots = self.machine.pmem_slots
        if self._pmem_count >= slots:
            raise UvmError(
                f"no slot is left for {path} as persistent memory: the VM was booted with {slots}"
            )
        if not size or size % PMEM_ALIGNMENT:
            raise UvmError(
                f"{path} has {size} bytes: persistent memory comes in multiples of "
                f"{PMEM_ALIGNMENT >> 20} MiB; `truncate --size %{PMEM_ALIGNMENT >> 20}M` extends it"
            )
        # Taken before the first await, so that two calls at once get two numbers.
        number, self._pmem_count = self._pmem_count, self._pmem_count + 1
        pmem = Pmem(path, size, number, read_only, direct_access)
        try:
            await self._monitor.execute("object-add", pmem_backend_options(pmem))
            try:
                await self._monitor.execute("device_add", pmem_device_options(pmem))
            except BaseException:
                await self._monitor.execute("object-del", {"id": pmem.name})
                raise
        except RefusedError:
            if self._pmem_count == number + 1:
                self._pmem_count = number
            raise
        return number

    async def _unplug(self, device: str, what: str) -> None:
        with self._monitor.listener("DEVICE_DELETED") as events:
            try:
                await self._monitor.execute("device_del", {"id": device})
                async with asyncio.timeout(_UNPLUG):
                    async for event in events:
                        data = event["data"]
                        if isinstance(data, dict) and data.get("device") == device:
                            break
            except RefusedError as error:
                # An earlier try was given up, and went through behind our back.
                if error.kind != "DeviceNotFound":
                    raise
            except TimeoutError:
                raise UvmError(f"the VM did not let go of {what}") from None

    async def _block_nodes(self) -> set[str]:
        nodes = await self._monitor.execute("query-named-block-nodes", {"flat": True})
        return {node["node-name"] for node in nodes}

    async def power_down(self) -> None:
        """Press the power button (ACPI)."""
        await self._monitor.execute("system_powerdown")

    async def _start_vsock_device(self, undo: contextlib.AsyncExitStack) -> Path:
        path = self.directory / "vhost.sock"
        device = await Child.spawn(
            [
                *(sys.executable, "-m", "uvm.vsock"),
                *("--socket", path),
                *("--uds", self.directory / "vsock"),
                *("--guest-cid", str(GUEST_CID)),
            ],
            output=self.directory / "vsock.log",
        )
        undo.push_async_callback(device.stop)
        deadline = asyncio.get_running_loop().time() + _DEVICE_START
        while not path.exists():
            if device.returncode is not None:
                raise UvmError(f"the vsock device did not start: {device.complaint()}")
            if asyncio.get_running_loop().time() > deadline:
                raise UvmError("the vsock device did not start in time")
            await asyncio.sleep(_POLL)
        return path

    async def _start_qemu(self, undo: contextlib.AsyncExitStack, vsock_socket: Path | None) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            wiring = Wiring(
                console=self.console,
                monitor_fd=theirs.fileno(),
                vsock_socket=vsock_socket,
                guest_cid=GUEST_CID if self._vsock == "kernel" else None,
            )
            ours.setblocking(False)
            undo.callback(ours.close)
            self._qemu = await Child.spawn(
                qemu_command_line(self.machine, wiring),
                output=self.directory / "qemu.log",
                pass_fds=(theirs.fileno(),),
            )
        undo.push_async_callback(self._qemu.stop)
        undo.push_async_callback(self._monitor.close)
        try:
            await self._monitor.connect(ours)
        except UvmError as error:
            await self._qemu.stop()
            raise UvmError(f"QEMU did not start: {self._qemu.complaint()}") from error

    def _running(self) -> Child:
        if self._qemu is None:
            raise UvmError("the VM was not started")
        return self._qemu
