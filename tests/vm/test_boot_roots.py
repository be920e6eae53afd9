"""The image boots from disks, checked or not, and over bases that are not ours.

From the initrd, over our own base, it boots in all other tests.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.functional.test_image_disks import build
from tests.support.foreign_bases import busybox_and_musl, distribution
from tests.vm.conftest import KeptVm, Uvm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def disks(image: Path) -> Path:
    """The directory with the root disks."""
    names = ("rootfs.vhd", "rootfs-verity.vhd", "rootfs-verity.cmdline", "initrd-root.img")
    missing = [name for name in names if not (image / name).is_file()]
    assert not missing, f"{image} lacks {missing}: run `make all rootfs verity` first"
    return image


@contextmanager
def booted(uvm: Uvm, *options: str | Path) -> Iterator[KeptVm]:
    name = f"test-{uuid.uuid4().hex[:6]}"
    uvm("boot", "--name", name, *options, check=True)
    try:
        yield KeptVm(uvm, name)
    finally:
        uvm("stop", name, check=True)


LOOK = """
while read device place type options rest; do
    [ "$place" != / ] || echo "root is $type, ${options%%,*}, from ${device##*/}"
done < /proc/mounts
! touch /file 2>&1
touch /etc/file /var/file && echo "etc and var are writable"
read name < /sys/class/block/dm-0/dm/name && echo "mapped $name"
"""


def look_around(vm: KeptVm) -> list[str]:
    return vm.exec("/bin/sh", "-c", LOOK).stdout.decode().splitlines()


def run_a_container(vm: KeptVm) -> None:
    done = vm.run("sh", "-c", "cat; exit 3", options=["-i"], stdin=b"through the container")
    assert (done.returncode, done.stdout) == (3, b"through the container"), done.stderr


READ_ONLY = ["touch: /file: Read-only file system", "etc and var are writable"]


def test_from_a_read_only_disk(uvm: Uvm, disks: Path) -> None:
    with booted(uvm, "--root-disk", disks / "rootfs.vhd") as vm:
        assert look_around(vm) == ["root is ext4, ro, from vda", *READ_ONLY]
        run_a_container(vm)


def test_from_a_disk_that_is_checked(uvm: Uvm, disks: Path) -> None:
    line = (disks / "rootfs-verity.cmdline").read_text().strip()
    options = ("--root-disk", disks / "rootfs-verity.vhd", "--kernel-option", line)
    with booted(uvm, *options) as vm:
        assert look_around(vm) == ["root is ext4, ro, from dm-0", *READ_ONLY, "mapped dmverity"]
        run_a_container(vm)


def test_a_disk_that_was_changed_does_not_boot(uvm: Uvm, disks: Path, tmp_path: Path) -> None:
    line = (disks / "rootfs-verity.cmdline").read_text().strip()
    disk = shutil.copy(disks / "rootfs-verity.vhd", tmp_path)
    with open(disk, "r+b") as file:
        file.seek(1024 + 0x78)  # the volume's name, which nothing reads
        file.write(b"changed")
    done = uvm("boot", "--name", "changed", "--root-disk", disk, "--kernel-option", line)
    assert done.returncode == 125
    assert "verity" in done.stderr.decode()
    assert "root: mounting /dev/dm-0 (ext4) on /root: I/O error" in done.stderr.decode()


@pytest.mark.parametrize("make_base", [distribution, busybox_and_musl])
def test_over_a_base_of_another_kind(
    uvm: Uvm, image: Path, tmp_path: Path, make_base: Callable[[Path], None]
) -> None:
    make_base(tmp_path / "base.tar")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("delta.tar.gz", "modules.cpio", "vmlinux", "busybox.tar"):
        (out / name).symlink_to(image / name)
    done = build(tmp_path, "initrd", "qemu", BASE=str(tmp_path / "base.tar"))
    assert done.returncode == 0, done.stderr
    with booted(uvm, "--image-dir", out) as vm:
        if make_base is distribution:
            script = 'echo "${BASH_VERSION%%.*}"; . /etc/os-release; [ -L /bin ] && echo "$ID"'
            looked = vm.exec("/bin/sh", "-c", script)
            assert looked.stdout == b"5\ndebian\n", looked.stderr
        else:
            assert vm.exec("/bin/speak").stdout == b"from musl\n"
        run_a_container(vm)
