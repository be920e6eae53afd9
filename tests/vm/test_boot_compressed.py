"""The image as hosts have it: compressed, in the way that the build was told."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from uvm.utility_vm import UtilityVm
from uvm.vm.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_image_boots_and_has_its_list_of_contents(image: Path, tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    # The modules stand before it, as behind it their archive would have to be compressed, too.
    parts = [(image / name).read_bytes() for name in ("modules.cpio", "initrd.img")]
    initrd.write_bytes(b"".join(parts))
    vm = UtilityVm(Machine(kernel=image / "vmlinux", initrd=initrd), tmp_path)
    await vm.boot()
    try:
        process = await vm.guest.execute_in_vm(["/usr/bin/sha256sum", "/info/sbom.cdx.json"])
        completed = await process.communicate()
    finally:
        await vm.stop()
    listed = hashlib.sha256((image / "sbom.cdx.json").read_bytes()).hexdigest()
    assert completed.stdout.decode().split() == [listed, "/info/sbom.cdx.json"]
