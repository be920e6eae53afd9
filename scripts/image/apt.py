"""What apt knows about packages of an architecture, and downloads by it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from scripts.image.architecture import Architecture

# apt drops to the user _apt for downloads, who cannot write here, and warns about it.  Options
# rather than `dpkg --add-architecture`: the packages of this machine are not the build's to change.
_OPTIONS = ("-q", "-o", "APT::Sandbox::User=root")

_NO_SUCH_PACKAGE = 100
"""Exit status of apt-cache when it knows one of the packages not."""


@dataclass(slots=True)
class Available:
    """What the archive has of one package."""

    candidate: str
    """The version that would be installed."""
    depends: str
    """What that version depends on, as its control file says."""
    checksums: dict[str, str] = field(default_factory=dict)
    """Version to SHA256, of every version to be had."""


class Apt:
    """Runs apt for one architecture.

    Parameters:
        root: directory for package lists of an architecture that is not this machine's.
        architecture: of the packages.
    """

    def __init__(self, root: Path, architecture: Architecture) -> None:
        self._root = root
        self._architecture = architecture

    @property
    def can_update(self) -> bool:
        """Whether package lists can be fetched anew."""
        return not self._architecture.native or os.geteuid() == 0

    def update(self) -> None:
        """Fetch the package lists anew.

        Raises:
            BuildError: the archive can't be reached.
        """
        run(["apt-get", *self._options(), "update"])

    def available(self, names: Iterable[str]) -> dict[str, Available]:
        """Return what the archive has of packages; those it has not are left out."""
        wanted = sorted(names)
        found = {
            fields["Package"]: Available(fields["Version"], fields.get("Depends", ""))
            for fields in self._show("--no-all-versions", wanted)
        }
        for fields in self._show("--all-versions", wanted):
            if fields["Package"] in found:
                found[fields["Package"]].checksums[fields["Version"]] = fields["SHA256"]
        return found

    def download(self, versions: Mapping[str, str], folder: Path) -> None:
        """Download packages, given as name and version, into a directory.

        Raises:
            BuildError: one of them can't be had.
        """
        words = [f"{name}={version}" for name, version in sorted(versions.items())]
        run(["apt-get", *self._options(), "download", *words], cwd=folder)

    def _show(self, which: str, names: list[str]) -> list[dict[str, str]]:
        command = ["apt-cache", *self._options(), "show", which, *names]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise BuildError("apt-cache: not found; run 'make setup' to install it") from error
        if done.returncode not in (0, _NO_SUCH_PACKAGE):
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise BuildError(f"apt-cache show: exit status {done.returncode}: {lines[-1]}")
        found = []
        for paragraph in done.stdout.split("\n\n"):
            pairs = (line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
            fields = {pair[0]: pair[1] for pair in pairs}
            # Of a package that is installed, but no longer to be had, there is no checksum.
            if "SHA256" in fields:
                found.append(fields)
        return found

    def _options(self) -> list[str]:
        """Return what makes apt see another architecture, with lists of its own."""
        if self._architecture.native:
            return [*_OPTIONS]
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
        return [
            *_OPTIONS,
            *(word for key, value in values.items() for word in ("-o", f"{key}={value}")),
        ]


def is_newer(version: str, other: str) -> bool:
    """Tell whether a version of a Debian package comes after another."""
    command = ["dpkg", "--compare-versions", version, "gt", other]
    return subprocess.run(command, check=False).returncode == 0
