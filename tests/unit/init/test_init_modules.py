"""Which kernel modules are loaded, in which order, from a tree in a temporary directory."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from gcs.init.modules import (
    ModuleLoader,
    is_hyperv_module,
    machine_is_hyperv,
    module_name,
    read_configuration,
)

if TYPE_CHECKING:
    from pathlib import Path

DEPENDENCIES = """kernel/net/vmw_vsock/vsock.ko:
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko: kernel/net/vmw_vsock/vsock.ko
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko: \
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko kernel/net/vmw_vsock/vsock.ko
kernel/net/vmw_vsock/hv_sock.ko: kernel/net/vmw_vsock/vsock.ko kernel/drivers/hv/hv_vmbus.ko
kernel/drivers/hv/hv_vmbus.ko:
kernel/drivers/gpu/drm/hyperv/hyperv_drm.ko: kernel/drivers/hv/hv_vmbus.ko
kernel/net/bridge/bridge.ko.xz:
kernel/net/9p/9pnet-fd.ko:
"""


class Tree:
    """A root with /lib/modules, and a kernel that remembers what it was given."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "lib/modules/6.1"
        self.directory.mkdir(parents=True)
        (self.directory / "modules.dep").write_text(DEPENDENCIES)
        (root / "proc").mkdir()
        (root / "proc/cmdline").write_text("quiet\n")
        (root / "etc/modprobe.d").mkdir(parents=True)
        self.kernel: list[tuple[str, str]] = []
        self.refused: dict[str, int] = {}
        self.present: set[str] = set()

    def configure(self, text: str) -> None:
        (self.root / "etc/modprobe.d/test.conf").write_text(text)

    def list_modules(self, text: str) -> None:
        (self.directory / "modules.load").write_text(text)

    def load(self, path: str, parameters: str) -> bool:
        name = module_name(path)
        self.kernel.append((name, parameters))
        if name in self.refused:
            raise OSError(self.refused[name], os.strerror(self.refused[name]), path)
        return name not in self.present

    def names(self) -> list[str]:
        return [name for name, _ in self.kernel]

    def loader(self, *, hyperv: bool = False) -> ModuleLoader:
        return ModuleLoader("6.1", root=f"{self.root}/", hyperv=hyperv, load=self.load)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_listed_modules_only_with_what_they_need_first(tree: Tree) -> None:
    tree.list_modules("# for vsock\nvmw_vsock_virtio_transport\n\n9pnet_fd # with a dash on disk\n")
    loader = tree.loader()
    loader.load_all()
    assert tree.names() == [
        "vsock",
        "vmw_vsock_virtio_transport_common",
        "vmw_vsock_virtio_transport",
        "9pnet_fd",
    ]
    assert loader.loaded == tree.names()
    assert not loader.failures


def test_without_a_list_network_modules_first_then_every_other_one_once(tree: Tree) -> None:
    tree.loader(hyperv=True).load_all()
    assert tree.names()[:4] == ["hv_vmbus", "vsock", "hv_sock", "bridge"]
    assert sorted(tree.names()) == sorted(
        module_name(line.split(":")[0]) for line in DEPENDENCIES.splitlines()
    )


def test_nothing_of_hyperv_elsewhere_not_even_as_a_dependency(tree: Tree) -> None:
    tree.loader().load_all()
    assert "bridge" in tree.names()
    assert not {"hv_sock", "hv_vmbus", "hyperv_drm"} & set(tree.names())


def test_blacklist_holds_for_named_modules_but_not_for_dependencies(tree: Tree) -> None:
    tree.configure("blacklist 9pnet-fd\n# blacklist bridge\nblacklist vsock\n")
    tree.list_modules("9pnet_fd\nvsock\nvmw_vsock_virtio_transport_common\n")
    tree.loader().load_all()
    assert tree.names() == ["vsock", "vmw_vsock_virtio_transport_common"]


def test_blacklist_of_the_kernel_command_line(tree: Tree) -> None:
    (tree.root / "proc/cmdline").write_text("quiet modprobe.blacklist=bridge,9pnet-fd x\n")
    assert read_configuration(f"{tree.root}/")[0] == {"bridge", "9pnet_fd"}


def test_parameters_of_the_kernel_command_line_come_after_those_of_files(tree: Tree) -> None:
    tree.configure("options bridge a=1\n")
    (tree.root / "proc/cmdline").write_text("root=/dev/x.y bridge.a=2 9pnet-fd.on bridge.b=1.5 x\n")
    tree.list_modules("bridge\n9pnet_fd\n")
    tree.loader().load_all()
    assert tree.kernel == [("bridge", "a=1 a=2 b=1.5"), ("9pnet_fd", "on")]


def test_options_are_passed_to_their_module(tree: Tree) -> None:
    tree.configure("options bridge a=1 b=2\noptions bridge c=3\n")
    tree.list_modules("bridge\n")
    tree.loader().load_all()
    assert tree.kernel == [("bridge", "a=1 b=2 c=3")]


def test_failure_is_kept_and_the_rest_goes_on(tree: Tree) -> None:
    tree.list_modules("vmw_vsock_virtio_transport\nmissing\nbridge\n")
    tree.refused["vmw_vsock_virtio_transport_common"] = errno.ENOEXEC
    loader = tree.loader()
    loader.load_all()
    assert loader.loaded == ["vsock", "bridge"]
    assert loader.failures.keys() == {"vmw_vsock_virtio_transport_common", "missing"}


def test_module_that_is_there_already_is_no_failure(tree: Tree) -> None:
    tree.list_modules("vmw_vsock_virtio_transport_common\n")
    tree.present.add("vsock")
    loader = tree.loader()
    loader.load_all()
    assert loader.loaded == ["vmw_vsock_virtio_transport_common"]
    assert not loader.failures


def test_listed_module_that_is_built_into_the_kernel_is_no_failure(tree: Tree) -> None:
    (tree.directory / "modules.builtin").write_text("kernel/fs/overlayfs/over-lay.ko\n")
    tree.list_modules("over_lay\nbridge\n")
    loader = tree.loader()
    loader.load_all()
    assert tree.names() == ["bridge"]
    assert not loader.failures


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/net/9p/9pnet-fd.ko", "9pnet_fd"),
        ("a/b.ko.xz", "b"),
        ("a/b.ko.zst", "b"),
        ("b", "b"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert module_name(path) == name


def test_hyperv_is_recognised_by_its_bus_or_its_firmware(tmp_path: Path) -> None:
    root = f"{tmp_path}/"
    assert not machine_is_hyperv(root)
    dmi = tmp_path / "sys/class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "sys_vendor").write_text("QEMU\n")
    assert not machine_is_hyperv(root)
    (dmi / "sys_vendor").write_text("Microsoft Corporation\n")
    assert machine_is_hyperv(root)
    (dmi / "sys_vendor").unlink()
    (tmp_path / "sys/bus/vmbus").mkdir(parents=True)
    assert machine_is_hyperv(root)


def test_hyperv_modules_are_known_by_name_or_place() -> None:
    assert is_hyperv_module("pci_hyperv", "kernel/drivers/pci/controller/pci-hyperv.ko")
    assert is_hyperv_module("hv_sock", "kernel/net/vmw_vsock/hv_sock.ko")
    assert not is_hyperv_module("vsock", "kernel/net/vmw_vsock/vsock.ko")
