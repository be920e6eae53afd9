"""Debian packages: downloaded once with apt-get, unpacked with dpkg-deb, never installed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError, run
from scripts.image.lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scripts.image.architecture import Architecture

# apt drops to the user _apt for downloads, who cannot write here, and warns about it.  Options
# rather than `dpkg --add-architecture`: the packages of this machine are not the build's to change.
_APT_OPTIONS = ("-q", "-o", "APT::Sandbox::User=root")


class PackageCache:
    """Packages below one directory: `debs/<name>_<version>_<arch>.deb` and `unpacked/<name>`.

    Parameters:
        root: the directory.
        architecture: of the packages.
    """

    def __init__(self, root: Path, architecture: Architecture) -> None:
        self._root = root
        self._architecture = architecture
        self._debs = root / "debs"
        self._unpacked = root / "unpacked"

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the .deb files of packages, downloading what is not there yet in one go.

        Raises:
            BuildError: apt-get knows a package not or cannot download it.
        """
        wanted = sorted(set(names))
        self._debs.mkdir(parents=True, exist_ok=True)
        with locked(self._root / "download.lock"):
            missing = [name for name in wanted if self._deb(name) is None]
            if missing:
                print("downloading from Debian:", *missing, flush=True)
                self._download(missing)
        found = {name: self._deb(name) for name in wanted}
        files = {name: deb for name, deb in found.items() if deb is not None}
        if len(files) != len(wanted):
            absent = ", ".join(name for name in wanted if name not in files)
            raise BuildError(f"apt-get downloaded no package file for {absent}")
        return files

    def _download(self, names: list[str]) -> None:
        options = [*_APT_OPTIONS, *self._foreign_options()]
        command = ["apt-get", *options, "download", *names]
        try:
            run(command, cwd=self._debs)
        except BuildError:
            if self._architecture.native and os.geteuid() != 0:
                raise
            # Old package lists name versions that the mirror has no more; a foreign architecture
            # has none to begin with.
            run(["apt-get", *options, "update"])
            run(command, cwd=self._debs)

    def _foreign_options(self) -> list[str]:
        """Return what makes apt-get see another architecture, with lists of its own."""
        if self._architecture.native:
            return []
        lists = self._root / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        values = {
            "APT::Architecture": self._architecture.name,
            "APT::Architectures": self._architecture.name,
            "Dir::State::Lists": lists,
            "Dir::State::status": "/dev/null",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
        }
        return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]

    def unpack(self, names: Iterable[str]) -> list[Path]:
        """Return directories with the content of packages."""
        folders = []
        for name, deb in self.fetch(names).items():
            folder = self._unpacked / name
            mark = self._unpacked / f"{name}.done"
            with locked(self._root / "unpack.lock"):
                if not mark.exists() or mark.read_text() != deb.name:
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir(parents=True)
                    run(["dpkg-deb", "-x", deb, folder])
                    mark.write_text(deb.name)
            folders.append(folder)
        return folders

    def unpack_together(self, names: Iterable[str], folder: Path) -> None:
        """Unpack packages over each other into one directory, unless they are there already."""
        debs = self.fetch(names)
        mark = folder / ".packages"
        content = "\n".join(deb.name for deb in debs.values())
        if mark.exists() and mark.read_text() == content:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for deb in debs.values():
            run(["dpkg-deb", "-x", deb, folder])
        mark.write_text(content)

    def versions(self) -> dict[str, str]:
        """Return name and version of every package downloaded."""
        return {
            parts[0]: parts[1].replace("%3a", ":")
            for deb in sorted(self._debs.glob("*.deb"))
            if len(parts := deb.stem.split("_")) == 3
        }

    def depends(self, name: str) -> list[str]:
        """Return the names of the packages a package depends on."""
        deb = self.fetch([name])[name]
        field = run(["dpkg-deb", "-f", deb, "Depends"])
        return [part.split()[0] for part in field.split(",") if part.strip()]

    def _deb(self, name: str) -> Path | None:
        files = sorted(self._debs.glob(f"{name}_*.deb"))
        return files[-1] if files else None
