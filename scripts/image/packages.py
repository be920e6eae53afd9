"""Debian packages: downloaded once with apt-get, unpacked with dpkg-deb, never installed.

The lock file says which version. One that the archive no longer has is replaced by the archive's,
with a warning; a checksum that is not the lock file's is always an error.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from scripts.image import pins
from scripts.image.apt import Apt, Available, is_newer
from scripts.image.errors import BuildError, run, warn
from scripts.image.lock import locked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from scripts.image.architecture import Architecture


class PackageCache:
    """Packages below one directory: `debs/<name>_<version>_<arch>.deb` and `unpacked/<name>`.

    Parameters:
        root: the directory.
        architecture: of the packages.
        locked_versions: what to take.
        strict: whether it is an error when a version of the lock file can't be had.
    """

    def __init__(
        self,
        root: Path,
        architecture: Architecture,
        locked_versions: pins.Pins,
        *,
        strict: bool = False,
    ) -> None:
        self.root = root
        self._architecture = architecture
        self.pins = locked_versions
        self.strict = strict
        self.apt = Apt(root, architecture)
        self._debs = root / "debs"
        self._unpacked = root / "unpacked"
        self._found: dict[str, Path] = {}

    def fetch(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the .deb files of packages, downloading what is not there yet in one go.

        Raises:
            BuildError: apt-get knows a package not or cannot download it, a file has another
                checksum than the lock file, or the lock file can't be followed and has to be.
        """
        wanted = sorted(set(names))
        self._debs.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "download.lock"):
            for name in wanted:
                self._take_from_cache(name)
            missing = [name for name in wanted if name not in self._found]
            if missing:
                self._take_from_archive(missing)
        return {name: self._found[name] for name in wanted}

    def _take_from_cache(self, name: str) -> None:
        pin = self.pins.debian(self._architecture.name, name)
        if name in self._found or pin is None:
            return
        deb = self._deb(name, pin.version)
        if deb is not None:
            pins.verify(deb, pin)
            self._found[name] = deb

    def _take_from_archive(self, names: list[str]) -> None:
        versions = self._versions(names)
        self._report_substitutes(versions)
        missing = {name: v for name, v in versions.items() if self._deb(name, v) is None}
        if missing:
            print(f"downloading {len(missing)} packages from Debian:", *missing, flush=True)
            try:
                self.apt.download(missing, self._debs)
            except BuildError:
                if not self.apt.can_update:
                    raise
                # Old package lists name versions that the mirror has no more.
                self.apt.update()
                versions = self._versions(names)
                self._report_substitutes(versions)
                self.apt.download(versions, self._debs)
        for name, version in versions.items():
            deb = self._deb(name, version)
            if deb is None:
                raise BuildError(f"apt-get downloaded no package file for {name} {version}")
            pin = self.pins.debian(self._architecture.name, name)
            if pin is not None and pin.version == version:
                pins.verify(deb, pin)
            self._found[name] = deb

    def _versions(self, names: list[str]) -> dict[str, str]:
        """Return which version of packages to take: the lock file's, or else the archive's."""
        available = self.apt.available(names)
        if self.apt.can_update and any(self._lists_are_old(name, available) for name in names):
            print("fetching Debian's package lists", flush=True)
            self.apt.update()
            available = self.apt.available(names)
        unknown = [name for name in names if name not in available]
        if unknown:
            raise BuildError(
                f"Debian's package lists for {self._architecture.name} have no "
                f"{', '.join(unknown)}; try 'apt-get update'"
            )
        return {name: self._version(name, available[name]) for name in names}

    def _lists_are_old(self, name: str, available: dict[str, Available]) -> bool:
        """Tell whether newer package lists may have the locked version of a package.

        Where the archive went on to a newer one they have not.
        """
        if name not in available:
            return True
        pin = self.pins.debian(self._architecture.name, name)
        return (
            pin is not None
            and pin.version not in available[name].checksums
            and not is_newer(available[name].candidate, pin.version)
        )

    def _version(self, name: str, available: Available) -> str:
        pin = self.pins.debian(self._architecture.name, name)
        if pin is None or pin.version not in available.checksums:
            return available.candidate
        checksum = available.checksums[pin.version]
        if checksum != pin.sha256:
            raise BuildError(
                f"{name} {pin.version}: SHA256 is {checksum} in the archive, "
                f"but {pin.sha256} in {self.pins.path.name}"
            )
        return pin.version

    def _report_substitutes(self, versions: dict[str, str]) -> None:
        other = []
        for name, version in versions.items():
            pin = self.pins.debian(self._architecture.name, name)
            if pin is None:
                other.append(f"{name} {version} (not in the lock file)")
            elif pin.version != version:
                other.append(f"{name} {version} (instead of {pin.version})")
        if not other:
            return
        text = f"the archive has other versions than {self.pins.path.name}: {', '.join(other)}"
        if self.strict:
            raise BuildError(f"{text}; 'make lock' takes them over")
        warn(f"{text}; going on with them, 'make lock' takes them over")

    def unpack(self, names: Iterable[str]) -> list[Path]:
        """Return directories with the content of packages, in the order of their names."""
        folders = []
        for name, deb in self.fetch(names).items():
            folder = self._unpacked / name
            mark = self._unpacked / f"{name}.done"
            with locked(self.root / "unpack.lock"):
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

    def package_of(self, path: Path) -> str | None:
        """Return which package a file is of that `unpack` put on disk."""
        if not path.is_relative_to(self._unpacked):
            return None
        return path.relative_to(self._unpacked).parts[0]

    def depends(self, name: str) -> str:
        """Return what a package depends on, as its control file says."""
        return run(["dpkg-deb", "-f", self.fetch([name])[name], "Depends"])

    def _deb(self, name: str, version: str) -> Path | None:
        files = list(self._debs.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))
        return files[0] if files else None
