"""Bases that are given: what is refused, what is left out, and what is said about it."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from scripts.image import cpio, tarball
from scripts.image.archive import gzipped
from scripts.image.tree import Tree, regular
from tests.functional.test_image_disks import build

if TYPE_CHECKING:
    from pathlib import Path

CHARACTER, BLOCK = tarfile.CHRTYPE, tarfile.BLKTYPE
ALL = ("chronyd", "cryptsetup", "depmod", "mkfs.ext4", "mkfs.xfs", "modprobe", "sh", "udhcpc")


def member(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in {"mode": 0o755, **values}.items():
        setattr(info, key, value)
    return info


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


GOOD = [member(f"usr/sbin/{name}") for name in (*ALL, "runc")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    delta = Tree()
    for path in ("init", "bin/gcs", "bin/vsockexec"):
        delta.put(path, regular(b"#!/bin/sh\n", 0o755))
    with gzipped(tmp_path / "out/delta.tar.gz") as out:
        tarball.write(delta, out, 0)
    return tmp_path


def attempt(
    place: Path, *members: tarfile.TarInfo, pack: bool = False
) -> subprocess.CompletedProcess[str]:
    """Build an image over a base with some members; nothing may be written elsewhere."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in members:
            archive.addfile(info)
    base = place / "base.tar"
    base.write_bytes(gzip.compress(out.getvalue()) if pack else out.getvalue())
    before = set(place.iterdir())
    done = build(place, "initrd", BASE=str(base))
    assert set(place.iterdir()) - before <= {place / "build"}
    made = {path.name for path in (place / "out").iterdir()} - {"delta.tar.gz"}
    assert made == ({"sbom.cdx.json"} if done.returncode == 0 else set())
    assert re.fullmatch(r"(initrd: made in [\d.]+ s\n)?", done.stdout)
    return done


def refusal(done: subprocess.CompletedProcess[str], place: Path) -> str:
    """Return the one line with which a base was refused, without its beginning."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert not (place / "build/initrd.cpio").exists()
    beginning = f"build_initrd: {place / 'base.tar'}: "
    assert line.startswith(beginning)
    return line.removeprefix(beginning)


def warnings(done: subprocess.CompletedProcess[str], place: Path) -> list[str]:
    assert done.returncode == 0, done.stderr
    beginning = "build_initrd: warning: "
    return [line.removeprefix(beginning) for line in done.stderr.splitlines()]


def image(place: Path) -> Tree:
    return cpio.read(place / "build/initrd.cpio")


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_a_base_with_everything_is_taken_without_a_word(place: Path, runtime: str) -> None:
    members = [*GOOD[:-1], member(f"usr/bin/{runtime}")]
    assert warnings(attempt(place, *members, pack=True), place) == []
    assert {"init", "bin/gcs", f"usr/bin/{runtime}", "lib/modules"} <= set(image(place).nodes)


def test_a_base_without_a_runtime(place: Path) -> None:
    # One that nobody may execute does not count.
    done = attempt(place, *GOOD[:-1], member("usr/bin/runc", mode=0o644), member("opt/runc"))
    assert refusal(done, place) == (
        "no container runtime: put runc or crun into one of /sbin, /usr/sbin, /bin, /usr/bin"
    )


def test_a_base_that_lacks_what_is_needed_now_and_then(place: Path) -> None:
    without = [info for info in GOOD if info.name not in ("usr/sbin/udhcpc", "usr/sbin/mkfs.xfs")]
    assert warnings(attempt(place, *without), place) == [
        "BASE has no mkfs.xfs, which is needed for encrypted scratch disks",
        "BASE has no udhcpc, which is needed for networks with DHCP",
    ]


@pytest.mark.parametrize("target", ["usr/bin", "/usr/bin", "./usr/../usr/bin"])
def test_a_linked_bin(place: Path, target: str) -> None:
    members = [member("usr/bin", type=tarfile.DIRTYPE), link("bin", target), member("bin/tool")]
    assert warnings(attempt(place, *members, *GOOD), place) == []
    nodes = image(place).nodes
    assert nodes["bin"].target == target
    assert {"usr/bin/gcs", "usr/bin/vsockexec", "usr/bin/tool"} <= set(nodes)


def test_links_that_lead_out_lead_nowhere(place: Path) -> None:
    members = [link("etc", "/etc"), link("srv", "../../../../tmp"), member("srv/gcs-escaped")]
    done = attempt(place, *members, *GOOD)
    # /etc leads to itself.
    assert refusal(done, place).endswith(": too many levels of symbolic links")
    assert warnings(attempt(place, *members[1:], *GOOD), place) == []
    assert "tmp/gcs-escaped" in image(place).nodes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("/etc/passwd"), "absolute member name '/etc/passwd'"),
        (member("a/../../b"), "member name 'a/../../b' leads out of the archive"),
        (
            member("b", type=tarfile.LNKTYPE, linkname="../x"),
            "member name '../x' leads out of the archive",
        ),
        (
            member("b", type=tarfile.LNKTYPE, linkname="none"),
            "/b: hard link to /none, which is no file of the archive",
        ),
        (member("usr/sbin/runc/x"), "/usr/sbin/runc: is no directory, but a parent of /usr/sbin"),
    ],
)
def test_members_that_can_not_be(place: Path, bad: tarfile.TarInfo, message: str) -> None:
    assert refusal(attempt(place, *GOOD, bad), place).startswith(message)


def test_a_bin_that_is_a_file(place: Path) -> None:
    done = attempt(place, *GOOD, member("bin"))
    assert refusal(done, place) == "/bin: a directory would replace a file that is no directory"


def test_device_nodes(place: Path) -> None:
    members = [
        member("dev/null", type=CHARACTER, devmajor=1, devminor=3, mode=0o666),
        member("srv/disk", type=BLOCK, devmajor=8, devminor=0, mode=0o666),
        member("memory", type=CHARACTER, devmajor=1, devminor=1),
        member("pipe", type=tarfile.FIFOTYPE),
    ]
    assert warnings(attempt(place, *members, *GOOD), place) == [
        "device nodes of BASE outside of /dev are left out: /memory, /srv/disk"
    ]
    nodes = image(place).nodes
    assert {"dev/null", "pipe"} <= set(nodes)
    assert not {"srv/disk", "memory"} & set(nodes)


def test_set_id_files(place: Path) -> None:
    members = [
        member("usr/bin/su", mode=0o4755),
        *(member(f"usr/bin/other{i}", mode=0o6755, uid=1000, gid=50) for i in range(7)),
        member("var/mail", mode=0o2775, gid=8, type=tarfile.DIRTYPE),
    ]
    (warning,) = warnings(attempt(place, *members, *GOOD), place)
    assert warning.startswith(
        "everything belongs to root in the image, so files of other owners in BASE"
    )
    assert warning.endswith(
        ": /usr/bin/other0, /usr/bin/other1, /usr/bin/other2, /usr/bin/other3, /usr/bin/other4 "
        "and 2 more"
    )
    nodes = image(place).nodes
    assert nodes["usr/bin/su"].mode & 0o7777 == 0o4755
    assert nodes["usr/bin/other6"].mode & 0o7777 == 0o755


@pytest.mark.parametrize("keep", [0, 0.1, 0.3])
@pytest.mark.parametrize("pack", [False, True])
def test_a_base_that_was_cut_off(place: Path, keep: float, pack: bool) -> None:
    attempt(place, *GOOD, pack=pack)
    base, product = place / "base.tar", place / "build/initrd.cpio"
    product.unlink()
    whole = base.read_bytes()
    base.write_bytes(whole[: int(len(whole) * keep)])
    done = build(place, "initrd", BASE=str(base))
    line = refusal(done, place)
    assert "truncated" in line or keep == 0


def test_a_cpio_base_is_read_with_the_same_care(place: Path) -> None:
    source = place / "source"
    (source / "usr/sbin").mkdir(parents=True)
    for name in (*ALL, "runc"):
        (source / "usr/sbin" / name).touch(0o755)
    subprocess.run(["mknod", source / "disk", "b", "8", "0"], check=True)
    (source / "usr/sbin/sh").chmod(0o4755)
    subprocess.run(["chown", "1000:0", source / "usr/sbin/sh"], check=True)
    (source / "usr/sbin/sh").chmod(0o4755)
    command = "find . | cpio -o -H newc --quiet >../base.tar"
    subprocess.run(["sh", "-c", command], cwd=source, check=True)
    done = build(place, "initrd", BASE=str(place / "base.tar"))
    devices, bits = warnings(done, place)
    assert devices == "device nodes of BASE outside of /dev are left out: /disk"
    assert bits.endswith(": /usr/sbin/sh")
