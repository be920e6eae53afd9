"""A machine as data, and its command line for QEMU."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from uvm.vm.nic import Nic, netdev_options, nic_device_options, root_port_options

QEMU: Final = "qemu-system-"
#: What init runs: the agent, with its log on the log port (spec 2.1).
DEFAULT_AGENT: Final = (
    "/bin/vsockexec",
    "-e",
    "109",
    "/bin/gcs",
    "-v4",
    "-log-format",
    "json",
    "-loglevel",
    "debug",
    # An emulated machine has no clock that follows the host's.
    "-disable-time-sync",
)
#: Lower ones are reserved (hypervisor, loopback, host).
GUEST_CID: Final = 3
#: As many as a real host has at most.
MOST_CONTROLLERS: Final = 4
#: Blocks of translated code to keep, in MiB: boots get slower below 128.
_TRANSLATION_CACHE: Final = 256
#: Address space for each slot of persistent memory, in MiB; it takes no memory of the host.
_PMEM_SLOT_MIB: Final = 4096
#: Numbers of root ports are all different; those of network adapters begin at 1.
_PMEM_CHASSIS: Final = 128
#: The guest's kernel maps persistent memory in pieces of so many bytes only.
PMEM_ALIGNMENT: Final = 2 << 20


def default_agent(accelerator: str) -> tuple[str, ...]:
    """Return what init runs; with KVM, which has a clock that follows the host's, on time."""
    if accelerator == "kvm":
        return tuple(word for word in DEFAULT_AGENT if word != "-disable-time-sync")
    return DEFAULT_AGENT


_BOARDS: Final = {"x86_64": "q35", "aarch64": "virt"}
_CONSOLES: Final = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
#: What a kernel image has at an offset, by the machine it is for (Linux: arch/arm64/booting.rst).
_ARM64_MAGIC: Final = (0x38, b"ARM\x64")


@dataclass(frozen=True)
class Disk:
    """A raw image attached to a SCSI controller.

    Attributes:
        path: The image.
        lun: Logical unit number.
        controller: Number of the controller.
        read_only: Whether the guest may write.
    """

    path: Path
    lun: int
    controller: int = 0
    read_only: bool = True

    @property
    def name(self) -> str:
        """Name of its QEMU device."""
        return f"disk-{self.controller}-{self.lun}"


@dataclass(frozen=True)
class Pmem:
    """A raw image attached as persistent memory.

    Attributes:
        path: The image; its size is a multiple of :data:`PMEM_ALIGNMENT`.
        size: Its size in bytes.
        number: Which one it is; the guest calls it ``/dev/pmem<number>``.
        read_only: Whether the image stays as it is.
        direct_access: Whether the guest's programs can be given the memory itself (dax), which
            takes a virtio device; otherwise it is an NVDIMM without labels, as real hosts have
            them, and for those Linux has no pages.
    """

    path: Path
    size: int
    number: int
    read_only: bool = True
    direct_access: bool = False

    @property
    def name(self) -> str:
        """Name of its QEMU device."""
        return f"pmem-{self.number}"


@dataclass(frozen=True)
class Machine:
    """What to boot, and with what hardware.

    Attributes:
        kernel: Uncompressed kernel.
        initrd: Initial RAM file system.
        memory_mib: Size of the memory.
        cpus: Number of processors.
        accelerator: ``kvm`` or ``tcg``.
        processor: QEMU's model of the emulated processor.
        controllers: Number of SCSI controllers.
        disks: Disks attached from the start.
        root_disk: Image with the root file system, which the guest sees as ``/dev/vda`` and can't
            write to; the initrd hands over to it.
        kernel_options: Added to the kernel's command line, before the arguments of init.
        agent: Command that init runs.
        pmem_slots: How many images can be plugged as persistent memory. With any, the guest's
            kernel sets 64 MiB aside for devices that can't reach all of the address space.
        architecture: Kind of machine, as QEMU and ``uname -m`` name it.
        nics: Network adapters that are there from the start.
        network_ports: How many more can be plugged in.
    """

    kernel: Path
    initrd: Path | None
    memory_mib: int = 512
    cpus: int = 1
    accelerator: str = "tcg"
    processor: str = "max"
    controllers: int = 1
    disks: tuple[Disk, ...] = ()
    root_disk: Path | None = None
    kernel_options: tuple[str, ...] = ()
    init_options: tuple[str, ...] = ("-e", "1")
    agent: tuple[str, ...] = DEFAULT_AGENT
    pmem_slots: int = 0
    architecture: str = "x86_64"
    nics: tuple[Nic, ...] = ()
    network_ports: int = 0

    def kernel_command_line(self) -> str:
        """Return the kernel's command line, in the order of a real host (spec 2.1)."""
        return " ".join(
            (
                f"console={_CONSOLES[self.architecture]},115200",
                "panic=-1",
                "quiet",
                "cryptomgr.notests",
                f"nr_cpus={self.cpus}",
                "brd.rd_nr=0",
                "rdinit=/init",
                *(("root=/dev/vda", "ro", "init=/init") if self.root_disk else ()),
                # Last of all, so that they prevail.
                *self.kernel_options,
                "--",
                # Overlays over /etc and /var, which programs write to.
                *(("-w",) if self.root_disk else ()),
                *self.init_options,
                *self.agent,
            )
        )


@dataclass(frozen=True)
class Wiring:
    """How a machine is connected to its host.

    Attributes:
        console: File for the serial console.
        monitor_fd: Connected socket for QMP.
        vsock_socket: vhost-user socket of the vsock device, or ``None`` for vhost-vsock.
        guest_cid: Context id of the guest, for vhost-vsock.
    """

    console: Path
    monitor_fd: int
    vsock_socket: Path | None = None
    guest_cid: int | None = None


def qemu_command_line(machine: Machine, wiring: Wiring) -> list[str]:
    """Return the command that runs a machine.

    Exactly what is named is there: no default devices, no display, no reset after a panic.
    """
    command = [
        QEMU + machine.architecture,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none"),
        *_processor(machine),
        *_memory(machine),
        *("-kernel", str(machine.kernel)),
        *(("-initrd", str(machine.initrd)) if machine.initrd else ()),
        *("-append", machine.kernel_command_line()),
        *("-chardev", f"file,id=console,path={_escape(wiring.console)}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={wiring.monitor_fd}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random"),
    ]
    if machine.root_disk is not None:
        drive = f"file.driver=file,file.filename={_escape(machine.root_disk)},file.read-only=on"
        command += ["-blockdev", f"driver=raw,node-name=root,read-only=on,{drive}"]
        command += ["-device", "virtio-blk-pci,drive=root"]
    for controller in range(machine.controllers):
        command += ["-device", f"virtio-scsi-pci,id=scsi{controller}"]
    for slot in range(machine.pmem_slots):
        # The root bus takes nothing that comes later.
        port = f"pcie-root-port,id={_pmem_port(slot)},chassis={_PMEM_CHASSIS + slot}"
        command += ["-device", f"{port},io-reserve=0"]
    for disk in machine.disks:
        command += ["-blockdev", _block_device(disk), "-device", _scsi_disk(disk)]
    for number in range(machine.network_ports):
        command += ["-device", root_port_options(number)]
    for nic in machine.nics:
        command += ["-netdev", json.dumps(netdev_options(nic))]
        command += ["-device", json.dumps(nic_device_options(nic))]
    return [*command, *_vsock(wiring)]


def block_device_options(disk: Disk) -> dict[str, object]:
    """Return the arguments of QMP ``blockdev-add`` for a disk."""
    return {
        "driver": "raw",
        "node-name": disk.name,
        "read-only": disk.read_only,
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": str(disk.path),
            "read-only": disk.read_only,
            "discard": "unmap",
        },
    }


def scsi_disk_options(disk: Disk) -> dict[str, object]:
    """Return the arguments of QMP ``device_add`` for a disk."""
    return {
        "driver": "scsi-hd",
        "id": f"dev-{disk.name}",
        "bus": f"scsi{disk.controller}.0",
        "channel": 0,
        "scsi-id": 0,
        "lun": disk.lun,
        "drive": disk.name,
    }


def pmem_backend_options(pmem: Pmem) -> dict[str, object]:
    """Return the arguments of QMP ``object-add`` for persistent memory."""
    return {
        "qom-type": "memory-backend-file",
        "id": pmem.name,
        "mem-path": str(pmem.path),
        "size": pmem.size,
        "align": PMEM_ALIGNMENT,
        # A virtio device can't be made read-only: what is written to it stays in memory then.
        "share": not (pmem.direct_access and pmem.read_only),
        "readonly": pmem.read_only and not pmem.direct_access,
    }


def pmem_device_options(pmem: Pmem) -> dict[str, object]:
    """Return the arguments of QMP ``device_add`` for persistent memory."""
    if pmem.direct_access:
        return {
            "driver": "virtio-pmem-pci",
            "id": f"dev-{pmem.name}",
            "memdev": pmem.name,
            "bus": _pmem_port(pmem.number),
        }
    return {
        "driver": "nvdimm",
        "id": f"dev-{pmem.name}",
        "memdev": pmem.name,
        # What is not armed can't keep what is written: the guest makes it read-only.
        "unarmed": pmem.read_only,
    }


def _pmem_port(number: int) -> str:
    return f"pmem-port{number}"


def _processor(machine: Machine) -> list[str]:
    if machine.accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host", "-smp", str(machine.cpus)]
    accelerator = f"tcg,thread=multi,tb-size={_TRANSLATION_CACHE}"
    return ["-accel", accelerator, "-cpu", machine.processor, "-smp", str(machine.cpus)]


def _memory(machine: Machine) -> list[str]:
    # Shared memory: a vhost-user device in another process reads the rings.
    size = f"{machine.memory_mib}M"
    slots = machine.pmem_slots
    board = _BOARDS[machine.architecture]
    most = f",slots={slots},maxmem={machine.memory_mib + slots * _PMEM_SLOT_MIB}M"
    return [
        *("-machine", f"{board},memory-backend=mem0" + (",nvdimm=on" if slots else "")),
        *("-m", size + (most if slots else "")),
        *("-object", f"memory-backend-memfd,id=mem0,size={size},share=on"),
    ]


def _vsock(wiring: Wiring) -> list[str]:
    if wiring.vsock_socket is not None:
        return [
            *("-chardev", f"socket,id=vsock0,path={_escape(wiring.vsock_socket)}"),
            *("-device", "vhost-user-vsock-pci,chardev=vsock0"),
        ]
    if wiring.guest_cid is not None:
        return ["-device", f"vhost-vsock-pci,guest-cid={wiring.guest_cid}"]
    return []


def _block_device(disk: Disk) -> str:
    read_only = "on" if disk.read_only else "off"
    return (
        f"driver=raw,node-name={disk.name},read-only={read_only},discard=unmap,"
        f"file.driver=file,file.filename={_escape(disk.path)},file.read-only={read_only},"
        "file.discard=unmap"
    )


def _scsi_disk(disk: Disk) -> str:
    options = scsi_disk_options(disk)
    driver = options.pop("driver")
    return f"{driver}," + ",".join(f"{key}={value}" for key, value in options.items())


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")


def architecture_of(kernel: Path) -> str:
    """Return the kind of machine that a kernel is for, as QEMU and ``uname -m`` name it."""
    offset, magic = _ARM64_MAGIC
    with kernel.open("rb") as file:
        file.seek(offset)
        return "aarch64" if file.read(len(magic)) == magic else "x86_64"
