"""What to boot, from what a person asks for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from uvm.errors import MissingFileError, UvmError
from uvm.paths import image_directory, require_image_file
from uvm.vm.accelerator import choose_accelerator
from uvm.vm.machine import MOST_CONTROLLERS, Machine, architecture_of, default_agent
from uvm.vm.nic import MAX_ROOT_PORTS
from uvm.vm.virtual_machine import VsockKind, choose_vsock

KERNEL: str = "vmlinux"
INITRD: str = "initrd-qemu.img"
ROOT_DISK_INITRD: str = "initrd-root.img"
DEFAULT_ROOTFS: str = "busybox.tar"
_LEAST_MEMORY_MIB = 128


@dataclass(frozen=True)
class BootOptions:
    """A machine as a person describes it.

    Attributes:
        image_dir: Directory of the boot files; see :func:`uvm.paths.image_directory`.
        kernel: Kernel file, instead of the one in that directory.
        initrd: Initial RAM file system, likewise.
        root_disk: Image of a disk with the root file system, such as ``rootfs.vhd``.
        memory_mib: Size of the memory.
        cpus: Number of processors.
        accelerator: Which one, or ``auto``.
        vsock: Which vsock device, or ``auto``.
        kernel_options: Added to the kernel's command line.
        agent: Command that init runs; empty: the usual one.
        network_ports: How many network adapters can be plugged in while it runs.
        controllers: Number of SCSI controllers.
    """

    image_dir: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    root_disk: str | None = None
    memory_mib: int = 512
    cpus: int = 1
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    vsock: Literal["auto", "user", "kernel"] = "auto"
    kernel_options: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    network_ports: int = 0
    controllers: int = 1

    def find(self, name: str, given: str | None) -> Path:
        """Return the path of a boot file.

        Raises:
            MissingFileError: It is not there.
        """
        if given is None:
            return require_image_file(image_directory(self.image_dir), name)
        path = Path(given)
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist")
        return path


async def build_machine(
    options: BootOptions, tell: Callable[[str], None]
) -> tuple[Machine, VsockKind]:
    """Return the machine, and which vsock device it gets.

    Args:
        options: What the person asks for.
        tell: Called with a line the person should read.

    Raises:
        MissingFileError: A boot file is not there.
        UvmError: A number is out of range.
    """
    if options.memory_mib < _LEAST_MEMORY_MIB:
        raise UvmError(f"a VM needs at least {_LEAST_MEMORY_MIB} MiB of memory")
    if options.cpus < 1:
        raise UvmError("a VM needs at least one processor")
    if not 0 <= options.network_ports <= MAX_ROOT_PORTS:
        raise UvmError(f"a VM can have 0 to {MAX_ROOT_PORTS} ports for network adapters")
    if not 1 <= options.controllers <= MOST_CONTROLLERS:
        raise UvmError(f"a VM can have 1 to {MOST_CONTROLLERS} SCSI controllers")
    kernel = options.find(KERNEL, options.kernel)
    root_disk = options.find("", options.root_disk) if options.root_disk else None
    initrd = options.find(ROOT_DISK_INITRD if root_disk else INITRD, options.initrd)
    accelerator: str = options.accelerator
    architecture = architecture_of(kernel)
    if architecture != os.uname().machine:
        if accelerator == "kvm":
            raise UvmError(f"KVM can't run {kernel}, a kernel for {architecture}")
        accelerator = "tcg"
    elif accelerator == "auto":
        accelerator = await choose_accelerator(kernel, tell)
    vsock = choose_vsock() if options.vsock == "auto" else options.vsock
    machine = Machine(
        kernel=kernel,
        initrd=initrd,
        root_disk=root_disk,
        memory_mib=options.memory_mib,
        cpus=options.cpus,
        accelerator=accelerator,
        kernel_options=options.kernel_options,
        agent=options.agent or default_agent(accelerator),
        architecture=architecture,
        network_ports=options.network_ports,
        controllers=options.controllers,
    )
    return machine, vsock
