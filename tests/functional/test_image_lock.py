"""The lock file, against archives made here: apt and pip are real, what they find is ours."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from scripts.image import pins
from scripts.image.architecture import AMD64, this_machine
from scripts.image.distributions import Distributions
from scripts.image.errors import BuildError
from scripts.image.packages import PackageCache

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = this_machine()
NOTHING = pins.Pin("debian", MACHINE.name, "gcs-test", "1.0", "0" * 64)


class Archive:
    """A Debian archive with one version of one package, and an apt that sees only it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pool = root / "pool"
        for folder in ("pool", "lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{self.pool} ./\n")
        config = {
            "Dir::Etc::SourceList": root / "sources.list",
            "Dir::Etc::SourceParts": root / "none",
            "Dir::State::Lists": root / "lists",
            "Dir::State::Status": root / "status",
            "Dir::Cache": root / "cache",
            "APT::Architecture": MACHINE.name,
            "Acquire::Languages": "none",
        }
        self.config = root / "apt.conf"
        self.config.write_text("".join(f'{key} "{value}";\n' for key, value in config.items()))

    def offer(self, version: str, text: str = "content") -> pins.Pin:
        """Replace what the archive has, and return the pin of it."""
        for old in self.pool.glob("*.deb"):
            old.unlink()
        folder = self.root / "package"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "DEBIAN").mkdir(parents=True)
        (folder / "file").write_text(text)
        control = (
            f"Package: gcs-test\nVersion: {version}\nArchitecture: {MACHINE.name}\n"
            "Maintainer: nobody <nobody@localhost>\nDescription: for a test\n"
        )
        (folder / "DEBIAN/control").write_text(control)
        name = f"gcs-test_{version}_{MACHINE.name}.deb"
        deb = self.pool / name
        subprocess.run(["dpkg-deb", "-b", folder, deb], check=True, capture_output=True)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        listed = f"{control}Filename: ./{name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        (self.pool / "Packages").write_text(listed)
        return replace(NOTHING, version=version, sha256=digest)

    def update(self) -> None:
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    made = Archive(tmp_path / "archive")
    monkeypatch.setenv("APT_CONFIG", str(made.config))
    return made


def cache(tmp_path: Path, *locked: pins.Pin, strict: bool = False) -> PackageCache:
    return PackageCache(tmp_path / "cache", MACHINE, pins.Pins(locked), strict=strict)


def fetch(cache: PackageCache) -> str:
    """Return the name of the file fetched for the package."""
    return cache.fetch(["gcs-test"])["gcs-test"].name


class TestDebian:
    def test_the_locked_version_is_taken(
        self, tmp_path: Path, archive: Archive, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pin = archive.offer("1.0")
        archive.update()
        assert fetch(cache(tmp_path, pin)) == f"gcs-test_1.0_{MACHINE.name}.deb"
        assert capsys.readouterr().err == ""

    def test_package_lists_older_than_the_lock_file_are_fetched_anew(
        self, tmp_path: Path, archive: Archive
    ) -> None:
        archive.offer("1.0")
        archive.update()
        pin = archive.offer("1.1")
        assert fetch(cache(tmp_path, pin, strict=True)) == f"gcs-test_1.1_{MACHINE.name}.deb"

    @pytest.mark.parametrize("lists", ["new", "old"])
    def test_a_version_that_vanished_is_replaced_with_a_warning(
        self, tmp_path: Path, archive: Archive, capsys: pytest.CaptureFixture[str], lists: str
    ) -> None:
        pin = archive.offer("1.0")
        archive.update()
        archive.offer("1.1")
        if lists == "new":
            archive.update()
        assert fetch(cache(tmp_path, pin)) == f"gcs-test_1.1_{MACHINE.name}.deb"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("build_initrd: warning: ")
        assert "gcs-test 1.1 (instead of 1.0)" in line
        assert "make lock" in line

    def test_a_version_that_vanished_is_an_error_when_locked(
        self, tmp_path: Path, archive: Archive
    ) -> None:
        pin = archive.offer("1.0")
        archive.offer("1.1")
        archive.update()
        with pytest.raises(BuildError, match=r"gcs-test 1\.1 \(instead of 1\.0\)"):
            fetch(cache(tmp_path, pin, strict=True))
        assert not list((tmp_path / "cache/debs").iterdir())

    def test_the_locked_version_is_taken_though_a_newer_one_is_at_hand(
        self, tmp_path: Path, archive: Archive
    ) -> None:
        newer = archive.offer("1.1")
        archive.update()
        fetch(cache(tmp_path, newer))
        pin = archive.offer("1.0")
        archive.update()
        assert fetch(cache(tmp_path, pin)) == f"gcs-test_1.0_{MACHINE.name}.deb"

    def test_the_same_version_with_another_checksum_is_an_error(
        self, tmp_path: Path, archive: Archive
    ) -> None:
        pin = archive.offer("1.0")
        archive.offer("1.0", "something else")
        archive.update()
        with pytest.raises(BuildError, match=r"gcs-test 1\.0: SHA256 is [0-9a-f]{64} in the arch"):
            fetch(cache(tmp_path, pin))

    def test_a_damaged_file_at_hand_is_an_error(self, tmp_path: Path, archive: Archive) -> None:
        pin = archive.offer("1.0")
        archive.update()
        deb = cache(tmp_path, pin).fetch(["gcs-test"])["gcs-test"]
        deb.write_bytes(deb.read_bytes()[:-1])
        with pytest.raises(BuildError, match="remove the file") as caught:
            fetch(cache(tmp_path, pin))
        assert str(deb) in str(caught.value)

    def test_a_package_that_is_not_locked_is_named(
        self, tmp_path: Path, archive: Archive, capsys: pytest.CaptureFixture[str]
    ) -> None:
        archive.offer("1.0")
        archive.update()
        fetch(cache(tmp_path))
        assert "gcs-test 1.0 (not in the lock file)" in capsys.readouterr().err

    def test_an_unknown_package_is_named(self, tmp_path: Path, archive: Archive) -> None:
        archive.offer("1.0")
        archive.update()
        with pytest.raises(BuildError, match="have no gcs-other"):
            cache(tmp_path).fetch(["gcs-test", "gcs-other"])

    def test_an_archive_that_is_gone_is_one_line(self, tmp_path: Path, archive: Archive) -> None:
        pin = archive.offer("1.0")
        archive.update()
        shutil.rmtree(archive.pool)
        with pytest.raises(BuildError) as caught:
            fetch(cache(tmp_path, pin))
        assert "apt-get" in str(caught.value)
        assert "\n" not in str(caught.value)


class TestPyPI:
    """What pip finds are the files of one directory."""

    @pytest.fixture(autouse=True)
    def found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "links"
        folder.mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
        return folder

    def wheel(self, folder: Path, version: str) -> pins.Pin:
        path = folder / f"pyroute2-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as file:
            about = f"pyroute2-{version}.dist-info"
            metadata = f"Metadata-Version: 2.1\nName: pyroute2\nVersion: {version}\n"
            file.writestr(f"{about}/METADATA", metadata)
            file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        return pins.Pin("pypi", "any", "pyroute2", version, pins.sha256_of(path), path.name)

    def fetch(self, tmp_path: Path, pin: pins.Pin, *, strict: bool = False) -> str:
        packages = PackageCache(tmp_path / "cache", AMD64, pins.Pins([pin]), strict=strict)
        return Distributions(packages, tmp_path / "work", AMD64).fetch("pyroute2").name

    def test_the_locked_version_is_taken(self, tmp_path: Path, found: Path) -> None:
        pin = self.wheel(found, "0.7.1")
        self.wheel(found, "0.7.2")
        assert self.fetch(tmp_path, pin) == pin.file
        (found / pin.file).unlink()
        assert self.fetch(tmp_path, pin) == pin.file  # which is at hand

    def test_a_version_that_vanished_is_replaced_with_a_warning(
        self, tmp_path: Path, found: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pin = self.wheel(found, "0.7.1")
        (found / pin.file).unlink()
        other = self.wheel(found, "0.7.2")
        with pytest.raises(BuildError, match=rf"{other.file}, but not {pin.file}"):
            self.fetch(tmp_path, pin, strict=True)
        assert self.fetch(tmp_path, pin) == other.file
        (line,) = capsys.readouterr().err.splitlines()
        assert other.file in line
        assert pin.file in line

    def test_another_checksum_is_an_error(self, tmp_path: Path, found: Path) -> None:
        pin = replace(self.wheel(found, "0.7.1"), sha256="0" * 64)
        with pytest.raises(BuildError, match="SHA256 is"):
            self.fetch(tmp_path, pin)

    def test_nothing_to_be_had_is_one_line(self, tmp_path: Path) -> None:
        pin = pins.Pin("pypi", "any", "pyroute2", "0.7.1", "0" * 64, "pyroute2.whl")
        with pytest.raises(BuildError, match=r"No matching distribution found for pyroute2") as why:
            self.fetch(tmp_path, pin)
        assert "\n" not in str(why.value)
