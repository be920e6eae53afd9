"""Child processes of the host tool, the choice of an accelerator, vsock ports."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from uvm.errors import ListenError, UvmError
from uvm.listen import VsockHostPorts
from uvm.vm.accelerator import choose_accelerator
from uvm.vm.child import Child
from uvm.vm.machine import Machine
from uvm.vm.virtual_machine import VirtualMachine

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_child_and_its_last_words(tmp_path: Path) -> None:
    child = await Child.spawn(["sh", "-c", "echo trouble; exit 3"], output=tmp_path / "log")
    assert await child.wait() == 3
    assert child.complaint() == "sh ended with status 3: trouble"
    await child.stop()


async def test_a_child_that_does_not_want_to_end(tmp_path: Path) -> None:
    read, write = os.pipe()
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"os.write({write}, b'ready')\n"
        "while True: signal.pause()"
    )
    child = await Child.spawn(
        [sys.executable, "-c", program], output=tmp_path / "log", pass_fds=[write]
    )
    assert await asyncio.to_thread(os.read, read, 100) == b"ready"
    os.close(read)
    os.close(write)
    await child.stop(grace=0.05)
    assert child.returncode == -signal.SIGKILL


async def test_a_program_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(UvmError, match="nosuchprogram is not installed"):
        await Child.spawn(["nosuchprogram"], output=tmp_path / "log")


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from uvm.vm.child import Child\n"
        "async def main():\n"
        "    command = ['sh', '-c', 'echo started; exec sleep 1000']\n"
        "    child = await Child.spawn(command, output=Path(sys.argv[1]))\n"
        "    while not child.output.read_bytes():\n"
        "        await asyncio.sleep(0.01)\n"
        "    print(child.pid, flush=True)\n"
        "    await child.wait()\n"
        "asyncio.run(main())"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "log"], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)
    os.close(pidfd)


async def test_without_kvm_nothing_is_tried(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.touch()
    said: list[str] = []
    assert await choose_accelerator(kernel, said.append, kvm=tmp_path / "kvm") == "tcg"
    assert said == []


async def test_kvm_of_no_use_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that can't boot stands for a KVM that doesn't work."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"no kernel")
    (tmp_path / "kvm").touch()
    said: list[str] = []
    for _ in range(2):
        assert await choose_accelerator(kernel, said.append, kvm=tmp_path / "kvm") == "tcg"
    (line,) = said
    assert line.startswith("KVM is of no use here")


async def test_a_qemu_that_does_not_start_says_why(tmp_path: Path) -> None:
    machine = Machine(kernel=tmp_path / "nothing", initrd=None, memory_mib=128)
    vm = VirtualMachine(machine, tmp_path, vsock="none")
    with pytest.raises(UvmError, match=r"QEMU did not start.*could not open kernel file"):
        await vm.start()
    await vm.stop()


async def test_vsock_ports_of_the_kernel() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
        probe.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        _, port = probe.getsockname()
    listener = VsockHostPorts(3).listen(port)
    with pytest.raises(ListenError, match=f"vsock port {port}"):
        VsockHostPorts(3).listen(port)
    listener.close()
