"""What is called differently on machines of another kind."""

from __future__ import annotations

import pytest

from scripts.image.architecture import ARCHITECTURES, Architecture, this_machine


def test_this_machine_needs_no_cross_tools() -> None:
    architecture = this_machine()
    assert architecture.native
    assert architecture.tool("strip") == "strip"
    assert architecture.command("/bin/busybox", "ls") == ["/bin/busybox", "ls"]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda each: each.name)
def test_another_machine_has_its_own_tools(
    architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[architecture.machine]
    monkeypatch.setattr("os.uname", lambda: _Uname(other))
    assert not architecture.native
    assert architecture.tool("gcc") == f"{architecture.machine}-linux-gnu-gcc"
    emulator = f"qemu-{architecture.machine}-static"
    assert architecture.command("busybox") == [emulator, "busybox"]
    assert architecture.loader.startswith("ld-linux-")
    assert architecture.kernel_package == f"linux-image-{architecture.name}"


class _Uname:
    def __init__(self, machine: str) -> None:
        self.machine = machine
