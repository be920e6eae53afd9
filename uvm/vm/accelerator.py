"""Which accelerator of QEMU works on this machine.

``/dev/kvm`` may be there and of no use: guests that hang before their first message, or a QEMU
that aborts. So a kernel is booted once, with a time limit, until it panics for want of a root.
"""

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from uvm.errors import UvmError
from uvm.paths import cache_directory
from uvm.vm.machine import Machine
from uvm.vm.virtual_machine import PANIC, VirtualMachine

#: A working KVM needs about one second for this.
PROBE_LIMIT: Final = 8.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Verdict(msgspec.Struct):
    """What a probe found; holds until the host boots again or the kernel image changes."""

    key: str
    accelerator: str
    reason: str = ""


async def choose_accelerator(
    kernel: Path, tell: Callable[[str], None], *, kvm: Path = Path("/dev/kvm")
) -> str:
    """Return ``kvm`` where a guest boots with it, else ``tcg``.

    Args:
        kernel: The kernel to try.
        tell: Called with a line for the person when KVM is there and of no use.
        kvm: The device.
    """
    if not os.access(kvm, os.R_OK | os.W_OK):
        return "tcg"
    path = cache_directory() / "accelerator.json"
    key = _key(kernel)
    with _locked(path.with_suffix(".lock")) as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        verdict = _remembered(path)
        if verdict is None or verdict.key != key:
            reason = await _failure(kernel)
            verdict = Verdict(key, "tcg" if reason else "kvm", reason)
            path.write_bytes(msgspec.json.encode(verdict))
            if reason:
                tell(f"KVM is of no use here ({reason}); emulating the processor instead")
    return verdict.accelerator


def _key(kernel: Path) -> str:
    boot = _BOOT_ID.read_text(encoding="ascii").strip()
    return f"{boot} {kernel.resolve()} {kernel.stat().st_mtime_ns}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remembered(path: Path) -> Verdict | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Verdict)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


async def _failure(kernel: Path) -> str:
    """Boot with KVM until the kernel panics; return why that did not happen, or nothing."""
    machine = Machine(kernel=kernel, initrd=None, memory_mib=128, accelerator="kvm", controllers=0)
    with tempfile.TemporaryDirectory(prefix="uvm-kvm-") as directory:
        vm = VirtualMachine(machine, Path(directory), vsock="none")
        try:
            async with asyncio.timeout(PROBE_LIMIT):
                await vm.start()
                await vm.wait()
        except TimeoutError:
            return f"a guest did not boot within {PROBE_LIMIT:g} s"
        except UvmError as error:
            return str(error).splitlines()[0]
        finally:
            await vm.stop()
        if PANIC not in vm.console_tail(100):
            return "QEMU ended before the guest had booted"
    return ""
