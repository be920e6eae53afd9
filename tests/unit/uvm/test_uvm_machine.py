"""Machines as data, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from uvm.boot import BootOptions, build_machine
from uvm.errors import BootError, MissingFileError, UvmError
from uvm.spec import ContainerOptions, ProcessOptions, User, container_document
from uvm.timings import Timings
from uvm.users import find_user
from uvm.utility_vm import UtilityVm
from uvm.vm.machine import (
    DEFAULT_AGENT,
    PMEM_ALIGNMENT,
    Disk,
    Machine,
    Pmem,
    Wiring,
    pmem_backend_options,
    pmem_device_options,
    qemu_command_line,
)

MACHINE = Machine(kernel=Path("/k"), initrd=Path("/i"), cpus=2)


def test_the_kernels_command_line_ends_with_the_arguments_of_init() -> None:
    words = MACHINE.kernel_command_line().split()
    at = words.index("--")
    assert {"console=ttyS0,115200", "panic=-1", "quiet", "nr_cpus=2", "rdinit=/init"} <= set(
        words[:at]
    )
    text = "-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel debug"
    assert " ".join(words[at + 1 :]).startswith(text)


def test_the_command_of_a_machine() -> None:
    machine = Machine(
        kernel=Path("/k"),
        initrd=None,
        memory_mib=640,
        controllers=2,
        disks=(Disk(Path("/a,b"), lun=3, controller=1), Disk(Path("/w"), lun=0, read_only=False)),
    )
    wiring = Wiring(console=Path("/c"), monitor_fd=9, vsock_socket=Path("/s"))
    command = qemu_command_line(machine, wiring)
    assert "-no-reboot" in command
    assert "-initrd" not in command
    assert "memory-backend-memfd,id=mem0,size=640M,share=on" in command
    assert command.count("virtio-scsi-pci,id=scsi0") == command.count("virtio-scsi-pci,id=scsi1")
    blocks = [command[at + 1] for at, word in enumerate(command) if word == "-blockdev"]
    assert "file.filename=/a,,b" in blocks[0]
    assert "read-only=on" in blocks[0]
    assert "read-only=off" in blocks[1]
    assert any("bus=scsi1.0,channel=0,scsi-id=0,lun=3" in word for word in command)
    assert "vhost-user-vsock-pci,chardev=vsock0" in command


def test_kvm_and_the_kernels_vsock() -> None:
    machine = Machine(kernel=Path("/k"), initrd=None, accelerator="kvm")
    command = qemu_command_line(machine, Wiring(Path("/c"), 9, guest_cid=3))
    assert command[command.index("-accel") + 1] == "kvm"
    assert "vhost-vsock-pci,guest-cid=3" in command


async def test_the_kernel_decides_about_the_machine(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(bytes(0x38) + b"ARM\x64" + bytes(64))
    (tmp_path / "initrd-qemu.img").touch()
    machine, _ = await build_machine(BootOptions(image_dir=str(tmp_path), vsock="user"), print)
    command = qemu_command_line(machine, Wiring(Path("/c"), 9))
    assert command[0] == "qemu-system-aarch64"
    assert "virt,memory-backend=mem0" in command
    assert "console=ttyAMA0,115200" in machine.kernel_command_line()
    assert machine.accelerator == "tcg"
    options = BootOptions(image_dir=str(tmp_path), vsock="user", accelerator="kvm")
    with pytest.raises(UvmError, match=r"KVM can't run .* aarch64"):
        await build_machine(options, print)


def test_persistent_memory_only_where_it_is_asked_for() -> None:
    wiring = Wiring(Path("/c"), 9)
    command = qemu_command_line(Machine(kernel=Path("/k"), initrd=None, pmem_slots=3), wiring)
    assert command[command.index("-machine") + 1] == "q35,memory-backend=mem0,nvdimm=on"
    assert command[command.index("-m") + 1] == f"512M,slots=3,maxmem={512 + 3 * 4096}M"
    assert "pcie-root-port,id=pmem-port2,chassis=130,io-reserve=0" in command
    command = qemu_command_line(MACHINE, wiring)
    assert command[command.index("-machine") + 1] == "q35,memory-backend=mem0"
    assert command[command.index("-m") + 1] == "512M"
    assert not any("pmem" in word for word in command)


def test_persistent_memory_for_direct_access_is_never_written_to_its_image() -> None:
    nvdimm = Pmem(Path("/i"), PMEM_ALIGNMENT, 1)
    assert pmem_device_options(nvdimm)["driver"] == "nvdimm"
    assert pmem_device_options(nvdimm)["unarmed"]
    backend = pmem_backend_options(nvdimm)
    assert (backend["share"], backend["readonly"]) == (True, True)
    direct = replace(nvdimm, direct_access=True)
    assert pmem_device_options(direct)["driver"] == "virtio-pmem-pci"
    assert pmem_device_options(direct)["bus"] == "pmem-port1"
    backend = pmem_backend_options(direct)
    assert (backend["share"], backend["readonly"]) == (False, False)
    assert pmem_backend_options(replace(direct, read_only=False))["share"]


async def test_a_missing_image_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"vmlinux is missing: run `make all`"):
        await build_machine(BootOptions(image_dir=str(tmp_path)), print)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (BootOptions(memory_mib=16), "128 MiB"),
        (BootOptions(cpus=0), "one processor"),
        (BootOptions(network_ports=33), "0 to 32 ports"),
        (BootOptions(controllers=5), "1 to 4 SCSI controllers"),
        (BootOptions(controllers=0), "1 to 4 SCSI controllers"),
        (BootOptions(kernel="/nonexistent"), "/nonexistent does not exist"),
    ],
)
async def test_machines_that_can_not_be(options: BootOptions, text: str) -> None:
    with pytest.raises(UvmError, match=text):
        await build_machine(options, print)


async def test_a_machine_with_kvm_keeps_the_time(tmp_path: Path) -> None:
    for name in ("vmlinux", "initrd-qemu.img"):
        (tmp_path / name).touch()
    options = BootOptions(image_dir=str(tmp_path), accelerator="kvm", vsock="user")
    machine, _ = await build_machine(options, print)
    assert machine.agent == tuple(word for word in DEFAULT_AGENT if word != "-disable-time-sync")
    options = BootOptions(image_dir=str(tmp_path), accelerator="tcg", vsock="user")
    machine, _ = await build_machine(options, print)
    assert machine.agent == DEFAULT_AGENT


async def test_a_machine_with_as_many_disks_as_a_real_host_has(tmp_path: Path) -> None:
    for name in ("vmlinux", "initrd-qemu.img"):
        (tmp_path / name).touch()
    options = BootOptions(str(tmp_path), accelerator="tcg", vsock="user", controllers=4)
    machine, _ = await build_machine(options, print)
    command = qemu_command_line(machine, Wiring(Path("/c"), 9))
    for number in range(4):
        assert f"virtio-scsi-pci,id=scsi{number}" in command
    utility = UtilityVm(machine, tmp_path)
    found = []
    for _ in range(4 * 64):
        found.append(utility._free_address())
        utility._disks.setdefault("owner", []).append(found[-1])
    assert [(disk.controller, disk.lun) for disk in found] == [
        (controller, lun) for controller in range(4) for lun in range(64)
    ]
    with pytest.raises(UvmError, match="all 256 disk addresses of the VM are in use"):
        utility._free_address()
    # One that is free again is the next one.
    del utility._disks["owner"][130]
    assert utility._free_address() == found[130]


async def test_the_image_directory_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vmlinux", "initrd-qemu.img"):
        (tmp_path / name).touch()
    monkeypatch.setenv("UVM_IMAGE_DIR", str(tmp_path))
    machine, vsock = await build_machine(BootOptions(accelerator="tcg", vsock="user"), print)
    assert (machine.kernel, machine.accelerator, vsock) == (tmp_path / "vmlinux", "tcg", "user")


def test_a_failed_boot_shows_the_console() -> None:
    assert str(BootError("no agent", "one\ntwo")).splitlines()[-2:] == ["  | one", "  | two"]
    assert str(BootError("no agent")) == "no agent"


def test_a_specification() -> None:
    document = container_document(
        ContainerOptions(
            process=ProcessOptions(
                arguments=("sh",),
                environment=("A=1", "PATH=/bin", "A=2"),
                user=User(5, 6, (7,)),
                terminal_size=(33, 111),
            ),
            read_only=True,
            memory_limit=1 << 20,
        ),
        "/root/fs",
    )
    assert document["process"]["env"] == ["PATH=/bin", "TERM=xterm", "A=2"]
    assert document["process"]["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}
    assert document["process"]["consoleSize"] == {"height": 33, "width": 111}
    assert document["root"] == {"path": "/root/fs", "readonly": True}
    assert document["linux"]["resources"]["memory"] == {"limit": 1 << 20}
    kinds = {namespace["type"] for namespace in document["linux"]["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount", "network", "cgroup"}


PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/:/bin/false\nbroken\n"
GROUPS = "root:x:0:\nwww:x:44:\nvideo:x:50:web,other\n"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("web", User(33, 44, (50,))),
        ("33", User(33, 44, (50,))),
        ("web:video", User(33, 50)),
        ("web:1", User(33, 1)),
        ("77:video", User(77, 50)),
    ],
)
def test_users_by_name(text: str, user: User) -> None:
    assert find_user(text, PASSWD, GROUPS) == user


@pytest.mark.parametrize("text", ["nobody", "web:nogroup"])
def test_users_that_do_not_exist(text: str) -> None:
    with pytest.raises(UvmError, match="no "):
        find_user(text, PASSWD, GROUPS)


def test_timings_as_a_table_and_as_json() -> None:
    timings = Timings()
    timings.merge({"one": 0.5, "two": 0.75})
    assert timings.to_json() == '{"one":0.5,"two":0.75}'
    assert timings.to_text().splitlines()[1:] == [
        "one       500 ms     500 ms",
        "two       250 ms     750 ms",
    ]
