"""Builds of the image: twice the same, over bases of every kind, and those that have to fail."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from scripts.image import cpio
from scripts.image.architecture import this_machine
from tests.functional.image_support import (
    OUT,
    PYTHON,
    REPOSITORY,
    build,
    chroot,
    digest,
    errors,
    unpack,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources, to break or to build from while somebody edits."""
    root = tmp_path / "sources"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("gcs", "rootfs", "scripts"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignore)
    return root


class TestReproducible:
    def test_neither_place_nor_time_nor_settings_show_in_the_bytes(
        self, tmp_path: Path, copy: Path
    ) -> None:
        """What else a whole build makes of these: `make check-reproducible`."""
        other = tmp_path / "a" / "longer" / "name"
        shutil.copytree(copy, other)
        for path in other.rglob("*"):
            os.utime(path, (1, 1))
            path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
        digests = []
        for root, before in ((copy, ()), (other, ("faketime", "2031-07-01 03:04:05"))):
            out, work = root / "out", root / "build"
            settings = {"TZ": "Pacific/Auckland", "HOME": str(root)} if before else {}
            old = os.umask(0o077 if before else 0o022)
            try:
                done = build(
                    *("base", "delta", "initrd"),
                    root=root,
                    out=out,
                    work=work,
                    before=before,
                    **settings,
                )
            finally:
                os.umask(old)
            assert done.returncode == 0, done.stderr
            digests.append((digest(out / "delta.tar.gz"), digest(work / "initrd.cpio")))
        assert digests[0] == digests[1]

    def test_times_follow_source_date_epoch_and_a_base_tells_its_own(self, tmp_path: Path) -> None:
        base = tmp_path / "mine.tar"
        base.touch()
        (tmp_path / "mine.testdata.json").write_text('{"IMAGE_NAME": "me", "DATETIME": "now"}')
        done = build("delta", out=tmp_path / "out", work=tmp_path / "build", BASE=str(base))
        assert done.returncode == 0, done.stderr
        with tarfile.open(tmp_path / "out/delta.tar.gz") as archive:
            assert {member.mtime for member in archive} == {1_700_000_000}
        root = unpack(tmp_path / "out/delta.tar.gz", tmp_path / "root")
        assert (root / "info/tar.date").read_text() == "2023-11-14T22:13+00:00\n"
        assert (root / "info/image.name").read_text() == "me\n"
        assert (root / "info/build.date").read_text() == "now\n"


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    """Output and work directories with a delta, ready for a base."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(OUT / "delta.tar.gz", out)
    return out, tmp_path / "build"


class TestBase:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        root = tmp_path / "base"
        (root / "usr/bin").mkdir(parents=True)
        (root / "bin").symlink_to("usr/bin")
        shutil.copy("/bin/busybox", root / "usr/bin/busybox")
        (root / "usr/bin/sh").symlink_to("busybox")
        (root / "usr/bin/owned").write_text("set-uid of somebody else\n")
        os.chown(root / "usr/bin/owned", 1000, 1000)
        (root / "usr/bin/owned").chmod(0o4755)
        (root / "usr/bin/runc").write_text("stands for one\n")
        (root / "usr/bin/runc").chmod(0o755)
        return root

    def test_every_kind_of_archive_gives_the_same_image(
        self, tmp_path: Path, source: Path, directories: tuple[Path, Path]
    ) -> None:
        out, work = directories
        script = "tar -cf ../a.tar . && find . | cpio -o -H newc --quiet >../a.cpio"
        subprocess.run(["sh", "-c", script], cwd=source, check=True)
        for name in ("a.tar", "a.cpio"):
            (tmp_path / f"packed-{name}").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        images = []
        for name in ("a.tar", "packed-a.tar", "a.cpio", "packed-a.cpio"):
            done = build("initrd", out=out, work=work, BASE=str(tmp_path / name))
            assert done.returncode == 0, done.stderr
            listed = (out / "sbom.cdx.json").read_text()
            assert f'"name":"{name}"' in listed
            images.append(
                {
                    path: (node.mode, node.target, node.read())
                    for path, node in cpio.read(work / "initrd.cpio")
                    if path != "info/sbom.cdx.json"  # which names the archive
                }
            )
        assert all(image == images[0] for image in images)
        assert build("rootfs", out=out, work=work).returncode == 0
        root = unpack(out / "rootfs.tar.gz", tmp_path / "root")
        assert (root / "bin").is_symlink()
        assert (root / "usr/bin/gcs").exists()
        assert (root / "usr/bin/owned").stat().st_mode & 0o7777 == 0o755
        assert os.readlink(root / "var/run") == "/run"
        done = chroot(root, "/bin/sh", "-c", f"{PYTHON} -IS -c 'print(1)'; /bin/vsockexec")
        assert (done.stdout, done.returncode) == ("1\n", 1)

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("text", b"this is no archive\n" * 100, "neither a tar nor a cpio archive"),
            ("cut.tar.gz", None, "truncated"),
            ("absent", b"", "No such file"),
        ],
    )
    def test_a_bad_base_is_refused_with_one_line(
        self,
        tmp_path: Path,
        directories: tuple[Path, Path],
        name: str,
        data: bytes | None,
        message: str,
    ) -> None:
        out, work = directories
        base = tmp_path / name
        if data is None:
            data = (OUT / "rootfs.tar.gz").read_bytes()[:100_000]
        if data:
            base.write_bytes(data)
        done = build("initrd", "compress", out=out, work=work, BASE=str(base))
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = errors(done)
        assert str(base) in line
        assert message in line
        assert [path.name for path in out.iterdir()] == ["delta.tar.gz"]

    @pytest.mark.parametrize("member", ["/tmp/gcs-escaped", "../gcs-escaped"])
    def test_a_base_that_leads_out_is_refused(
        self, tmp_path: Path, directories: tuple[Path, Path], member: str
    ) -> None:
        out, work = directories
        base = tmp_path / "base.tar"
        with tarfile.open(base, "w") as archive:
            archive.addfile(tarfile.TarInfo(member))
        done = build("initrd", out=out, work=work, BASE=str(base))
        assert done.returncode == 1
        (line,) = errors(done)
        assert member in line


class TestBuildErrors:
    def test_an_import_the_image_cannot_satisfy_fails_the_build(
        self, tmp_path: Path, copy: Path
    ) -> None:
        (copy / "gcs/broken.py").write_text("def late():\n    import no_such_module\n")
        done = build("delta", out=tmp_path / "out", work=tmp_path / "build", root=copy)
        assert done.returncode == 1
        (line,) = errors(done)
        assert "no_such_module" in line
        assert not (tmp_path / "out/delta.tar.gz").exists()

    def test_a_module_of_the_standard_library_that_is_left_out_fails_the_build(
        self, tmp_path: Path, copy: Path
    ) -> None:
        with (copy / "gcs/cli.py").open("a") as file:
            file.write("\n\ndef late() -> object:\n    import ssl\n    return ssl\n")
        done = build("delta", out=tmp_path / "out", work=tmp_path / "build", root=copy)
        assert done.returncode == 1
        (line,) = errors(done)
        assert re.search(r"gcs/cli\.py:\d+: import ssl: ", line)

    def test_a_package_that_cannot_be_had_is_named(self, tmp_path: Path, copy: Path) -> None:
        path = copy / "scripts/image/prefix.py"
        text = path.read_text()
        path.write_text(text.replace('"zlib1g",', '"zlib1g",\n    "gcs-no-such-package",'))
        work = tmp_path / "build"
        (work / "cache").mkdir(parents=True)
        debs = REPOSITORY / "build/cache/debs"
        (work / "cache/debs").mkdir()
        for deb in debs.glob("*.deb"):
            (work / "cache/debs" / deb.name).symlink_to(deb)
        (work / "cache/wheels").symlink_to(REPOSITORY / "build/cache/wheels")
        done = build("delta", out=tmp_path / "out", work=work, root=copy)
        assert done.returncode == 1
        (line,) = errors(done)
        assert "gcs-no-such-package" in line

    def test_a_missing_tool_is_named(self, tmp_path: Path) -> None:
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in ("sh", "env", "readlink", "dirname", "apt-get", "dpkg-deb", "strip", "objcopy"):
            (tools / name).symlink_to(shutil.which(name) or name)
        done = build("delta", out=tmp_path, work=tmp_path, PATH=str(tools))
        assert done.returncode == 1
        assert done.stderr == (
            "build_initrd: patchelf: not found; run 'make setup' to install it\n"
        )

    def test_a_locked_version_that_vanished_is_a_warning_or_an_error(
        self, tmp_path: Path, copy: Path
    ) -> None:
        path = copy / "scripts/image/packages.lock"
        text = path.read_text()
        machine = this_machine().name
        (old,) = re.findall(rf"^debian {machine} busybox-static (\S+) ", text, re.MULTILINE)
        path.write_text(text.replace(f"busybox-static {old} ", "busybox-static 0.1 "))
        out, work = tmp_path / "out", tmp_path / "build"
        done = build("base", out=out, work=work, root=copy)
        assert done.returncode == 0, done.stderr
        (line,) = done.stderr.splitlines()
        found = re.search(r"warning: .*busybox-static (\S+) \(instead of 0\.1\)", line)
        assert found is not None
        with tarfile.open(work / "base.tar") as archive:
            listed = archive.extractfile("info/sbom.cdx.json")
            assert listed is not None
            assert f'"name":"busybox-static","version":"{found[1]}"' in listed.read().decode()
        (work / "base.tar").unlink()
        done = build("base", out=out, work=work, root=copy, LOCKED="1")
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "(instead of 0.1)" in line
        assert not (work / "base.tar").exists()
