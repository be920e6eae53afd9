"""`uvm run` of container images: layers as disks of their own, combined by the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.images import ImageFiles, archive, docker_archive, layer, member

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.conftest import KeptVm, Uvm

LAYERS = 30
SHOW = "cat /number; echo $GREETING; id; pwd; ls /old /full; [ -e /gone ] || echo gone"


@pytest.fixture(scope="module")
def base(image: Path) -> bytes:
    """The lowest layer: a root file system with busybox."""
    return (image / "busybox.tar").read_bytes()


@pytest.fixture(scope="module")
def tall(base: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with many layers, each of which replaces the same file."""
    first = layer({"gone": "x", "full/": "", "full/below": "x", "old/": "", "number": "0\n"})
    top = archive(
        [
            member(".wh.gone"),
            member("full/.wh..wh..opq"),
            member("full/above", "x"),
            member("etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n"),
            member("etc/group", "root:x:0:\nwww:x:44:\n"),
        ]
    )
    middle = [
        layer({f"old/{number}": "", "number": f"{number}\n"}) for number in range(1, LAYERS - 2)
    ]
    files = ImageFiles()
    files.image(
        [base, first, *middle, top],
        name="tall:1",
        compression="+zstd",
        Entrypoint=["/bin/sh", "-c"],
        Cmd=[SHOW],
        Env=["GREETING=hello world"],
        User="web",
        WorkingDir="/old",
    )
    path = tmp_path_factory.mktemp("tall") / "tall.tar"
    return files.write_archive(path, docker=True)


def expected() -> str:
    old = sorted(str(number) for number in range(1, LAYERS - 2))
    lines = [
        str(LAYERS - 3),
        "hello world",
        "uid=33(web) gid=44(www)",
        "/old",
        *("/full:", "above", ""),
        *("/old:", *old),
        "gone",
    ]
    return "\n".join(lines) + "\n"


def test_thirty_layers_in_a_vm_of_its_own(uvm: Uvm, tall: Path) -> None:
    result = uvm("run", tall)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode() == expected()


def test_thirty_layers_in_a_vm_that_stays(vm: KeptVm, tall: Path) -> None:
    # Two containers at once have more layers than a controller has addresses, unless they share.
    detached = vm.uvm("run", "--name", vm.name, "-d", tall, "--", "sleep 1000")
    assert detached.returncode == 0, detached.stderr.decode()
    container = detached.stdout.decode().strip()
    again = vm.uvm("run", "--name", vm.name, f"{tall}#tall:1", "--", f"touch new; {SHOW}")
    assert again.returncode == 0, again.stderr.decode()
    assert "Permission denied" in again.stderr.decode()
    assert again.stdout.decode() == expected()
    both = vm.uvm("run", "--name", vm.name, "-u", "0", tall, "--", "touch new; ls -l new; mount")
    assert both.returncode == 0, both.stderr.decode()
    # A process inherits what its container has.
    inside = vm.exec(
        "/bin/sh", "-c", "id -u; pwd; echo $GREETING", options=("--container", container)
    )
    assert inside.stdout.decode() == "33\n/old\nhello world\n"
    other = ("--container", container, "-u", "0", "-w", "/", "-e", "GREETING=x")
    inside = vm.exec("/bin/sh", "-c", "id -u; pwd; echo $GREETING", options=other)
    assert inside.stdout.decode() == "0\n/\nx\n"
    disks = vm.exec(
        "/bin/sh", "-c", "grep -c '^/dev.* /run/mounts/scsi' /proc/mounts; ls -d /sys/block/sd*"
    )
    assert disks.stdout.decode().splitlines()[0] == str(LAYERS)
    assert len(disks.stdout.split()) == 1 + LAYERS + 1
    vm.uvm("kill", "--name", vm.name, container, check=True)
    script = "while grep -q ' sd' /proc/partitions; do sleep 0.1; done; cat /proc/mounts"
    assert b"/run/" not in vm.exec("/bin/sh", "-c", script).stdout


def test_entry_points_and_old_archives(vm: KeptVm, base: bytes, tmp_path: Path) -> None:
    source = docker_archive(
        tmp_path / "old.tar.gz",
        {"one:1": [base], "two:1": [base, layer({"two": "2\n"})]},
        mode="w:gz",
        Entrypoint=["/bin/cat"],
        Cmd=["/etc/hostname"],
    )
    result = vm.uvm("run", "--name", vm.name, f"{source}#two:1", "--", "/two")
    assert (result.returncode, result.stdout) == (0, b"2\n"), result.stderr.decode()
    other = ("--entrypoint", "/bin/echo")
    result = vm.uvm("run", "--name", vm.name, *other, f"{source}#one:1", "--", "a", "b")
    assert (result.returncode, result.stdout) == (0, b"a b\n"), result.stderr.decode()
    result = vm.uvm("run", "--name", vm.name, source)
    assert result.returncode == 125
    assert result.stderr.decode() == (
        f"uvm: {source} holds several images: choose one by {source}#NAME of one:1, two:1\n"
    )


def test_an_image_of_another_machine(uvm: Uvm, base: bytes, tmp_path: Path) -> None:
    files = ImageFiles()
    files.image([base], architecture="arm64")
    result = uvm("run", files.write_directory(tmp_path / "layout"), "--", "true")
    assert result.returncode == 125
    assert result.stderr.count(b"\n") == 1
    assert b"only for linux/arm64" in result.stderr
