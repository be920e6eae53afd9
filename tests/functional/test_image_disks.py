"""The image as a disk, and the other products that are not made by default (spec 8.2)."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import pytest

from scripts.image import cpio
from tar2ext4 import verity

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "out"
CHROOT = shutil.which("chroot") or "chroot"
SAMPLE = {"bin/sh": b"#!\n", "etc/os-release": b"ID=sample\n", "init": b"x" * 70_000}


def build(root: Path, *steps: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the build script with output and work directories below `root`."""
    work = root / "build"
    work.mkdir(exist_ok=True)
    if not (work / "cache").exists():
        (work / "cache").symlink_to(REPOSITORY / "build/cache")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "OUT": str(root / "out"),
        "BUILD": str(work),
        "SOURCE_DATE_EPOCH": "1700000000",
        **settings,
    }
    return subprocess.run(
        [REPOSITORY / "scripts/build_initrd.sh", *steps],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def succeed(root: Path, *steps: str, **settings: str) -> None:
    done = build(root, *steps, **settings)
    assert done.returncode == 0, done.stderr


def sample_rootfs(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out / "rootfs.tar.gz", "w:gz") as archive:
        for name, data in SAMPLE.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Disks of a small root file system."""
    root = tmp_path_factory.mktemp("disks")
    sample_rootfs(root / "out")
    succeed(root, "ext4", "vhd", "verity", SNP_BUILD="1")
    return root / "out"


def value(disks: Path, name: str) -> str:
    return (disks / f"rootfs.hash.{name}").read_text().strip()


def test_the_disk_holds_the_files(disks: Path) -> None:
    for name, data in SAMPLE.items():
        shown = subprocess.run(
            ["debugfs", "-R", f"cat /{name}", disks / "rootfs.ext4"],
            capture_output=True,
            check=True,
        )
        assert shown.stdout == data


@pytest.mark.parametrize("name", ["rootfs", "rootfs-verity"])
def test_a_vhd_is_the_disk_with_a_footer(disks: Path, name: str) -> None:
    disk, vhd = (disks / f"{name}.ext4").read_bytes(), (disks / f"{name}.vhd").read_bytes()
    assert vhd[:-512] == disk
    assert vhd[-512:].startswith(b"conectix")
    unique = uuid.UUID(bytes=vhd[-512 + 68 :][:16])
    assert unique.version == 5


def test_the_tree_stands_behind_the_file_system(disks: Path) -> None:
    ext4, tree = (disks / "rootfs.ext4").read_bytes(), (disks / "rootfs.hash").read_bytes()
    assert (disks / "rootfs-verity.ext4").read_bytes() == ext4 + tree
    # By our own code, which veritysetup has not made it with.
    salt = bytes.fromhex(value(disks, "salt"))
    assert tree == verity.tree(io.BytesIO(ext4), salt)
    assert value(disks, "rootdigest") == verity.root_digest(tree, salt)


def test_values_are_in_files_of_their_own(disks: Path) -> None:
    size = (disks / "rootfs.ext4").stat().st_size
    assert value(disks, "datablocksize") == value(disks, "hashblocksize") == "4096"
    assert value(disks, "datablocks") == str(size // 4096)
    assert value(disks, "datasectors") == str(size // 512)
    assert len(bytes.fromhex(value(disks, "salt"))) == 32
    assert f"Root hash:      \t{value(disks, 'rootdigest')}" in value(disks, "info")


def test_veritysetup_finds_no_fault(disks: Path) -> None:
    command: list[str | Path] = [
        *("veritysetup", "verify", "--no-superblock", f"--salt={value(disks, 'salt')}"),
        *(f"--data-blocks={value(disks, 'datablocks')}", disks / "rootfs.ext4"),
        *(disks / "rootfs.hash", value(disks, "rootdigest")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_command_lines_are_those_of_the_reference(disks: Path) -> None:
    sectors, blocks = value(disks, "datasectors"), value(disks, "datablocks")
    digest, salt = value(disks, "rootdigest"), value(disks, "salt")

    def mapped(devices: str, start: str, options: str = "") -> str:
        table = f"0 {sectors} verity 1 {devices} 4096 4096 {blocks} {start} sha256 {digest} {salt}"
        return f'root=/dev/dm-0 dm-mod.create="dmverity,,,ro,{table}{options}"'

    def kernel(level: int, root: str, init: str) -> str:
        return f"8250_core.nr_uarts=0 panic=-1 debug loglevel={level} {root} {init}\n"

    ignoring = " 1 ignore_corruption"
    assert {path.stem: path.read_text() for path in disks.glob("*.cmdline")} == {
        "rootfs-verity": mapped("/dev/vda /dev/vda", blocks) + "\n",
        "kernel": kernel(7, mapped("/dev/sda /dev/sda", blocks), "init=/startup.sh"),
        "v2056": kernel(9, mapped("/dev/sda /dev/sdb", "0", ignoring), "init=/startup_v2056.sh"),
        "v2056combined": kernel(
            9, mapped("/dev/sda /dev/sda", blocks, ignoring), "init=/startup_v2056.sh"
        ),
        "simple": "8250_core.nr_uarts=0 panic=-1 debug loglevel=7 rdinit=/startup_simple.sh\n",
    }


def test_devices_can_be_named_and_only_scripts_of_the_image_started(tmp_path: Path) -> None:
    sample_rootfs(tmp_path / "out")
    succeed(tmp_path, "ext4", "verity", ROOTFS_DEVICE="/dev/pmem0")
    line = (tmp_path / "out/kernel.cmdline").read_text()
    assert " verity 1 /dev/pmem0 /dev/pmem0 " in line
    assert line.endswith(" init=/startup.sh\n")
    assert not (tmp_path / "out/v2056.cmdline").exists()


def test_the_same_files_give_the_same_disks_elsewhere(disks: Path, tmp_path: Path) -> None:
    shutil.copytree(disks, tmp_path / "out", ignore=shutil.ignore_patterns("*.ext4", "*.vhd"))
    succeed(tmp_path, "ext4", "vhd", "verity", SNP_BUILD="1")

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        }

    assert digests(tmp_path / "out") == digests(disks)


def test_a_damaged_archive_makes_no_disk(tmp_path: Path) -> None:
    sample_rootfs(tmp_path / "out")
    path = tmp_path / "out/rootfs.tar.gz"
    path.write_bytes(path.read_bytes()[:-20])
    done = build(tmp_path, "ext4")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(path) in line
    assert [each.name for each in path.parent.iterdir()] == ["rootfs.tar.gz"]


def test_a_setting_is_0_or_1(tmp_path: Path) -> None:
    done = build(tmp_path, "ext4", KMOD="yes")
    assert (done.returncode, done.stderr) == (1, "build_initrd: KMOD=yes: expected 0 or 1\n")


@pytest.fixture
def with_delta(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    for name in ("delta.tar.gz", "modules.cpio"):
        (tmp_path / "out" / name).symlink_to(OUT / name)
    return tmp_path


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {info.name: info for info in tar}


def test_deltas_of_confidential_machines(with_delta: Path) -> None:
    succeed(with_delta, "delta-dev", "delta-snp")
    plain = members(OUT / "delta.tar.gz")
    dev = members(with_delta / "out/delta-dev.tar.gz")
    snp = members(with_delta / "out/delta-snp.tar.gz")
    scripts = {"startup_simple.sh", "startup_v2056.sh"}
    assert set(dev) == set(plain) | {"bin/snp-report"}
    assert set(snp) == set(dev) | scripts
    assert {snp[name].mode for name in scripts | {"bin/snp-report"}} == {0o755}
    for name in scripts | {"startup.sh"}:
        folder = "rootfs" if name == "startup.sh" else "scripts/image/files/startup"
        subprocess.run(["sh", "-n", REPOSITORY / folder / name], check=True)
    root = with_delta / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", with_delta / "out/delta-dev.tar.gz", "-C", root], check=True)
    done = subprocess.run(
        [CHROOT, root, "/bin/snp-report"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "snp-report: neither /dev/sev nor /dev/sev-guest exists: "
        "the machine is not protected by SEV-SNP\n"
    )


def test_an_image_with_startup_scripts_modules_and_one_bin(with_delta: Path) -> None:
    settings = {"SNP_BUILD": "1", "USR_MERGED_ROOTFS": "1", "KMOD": "1"}
    succeed(with_delta, "base", "delta", "delta-snp", "initrd", "qemu", **settings)
    image = cpio.read(with_delta / "build/initrd.cpio").nodes
    assert {name: image[name].target for name in ("bin", "sbin", "lib", "lib64")} == {
        name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")
    }
    assert {"startup_simple.sh", "usr/bin/gcs", "usr/bin/busybox", "usr/sbin/mke2fs"} <= set(image)
    assert any(re.fullmatch(r"usr/lib/modules/[^/]+/modules\.load", name) for name in image)
    assert not [name for name in image if name.startswith(("bin/", "sbin/", "lib/", "lib64/"))]
    # The modules are in it once.
    qemu, plain = with_delta / "out/initrd-qemu.img", with_delta / "build/initrd.cpio"
    assert qemu.read_bytes() == plain.read_bytes()
    root = with_delta / "root"
    root.mkdir()
    subprocess.run(["cpio", "-idm", "--quiet"], input=plain.read_bytes(), cwd=root, check=True)
    for command in (["/bin/sh", "-c", "mkfs.ext4 -V; runc --version"], ["/bin/vsockexec"]):
        done = subprocess.run(
            [CHROOT, root, *command], capture_output=True, check=False, env={}, text=True
        )
        assert done.returncode == (1 if command == ["/bin/vsockexec"] else 0), done.stderr
