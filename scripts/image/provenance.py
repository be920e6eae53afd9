"""Find out where the files of a tree come from, by where on disk their content lies."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from scripts.image import distributions, pins
from scripts.image.errors import BuildError, run
from scripts.image.origin import (
    Component,
    Origin,
    component,
    debian_package,
    python_distribution,
)
from scripts.image.tree import FileSlice, Tree

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.image.packages import PackageCache

_SOURCES = ("gcs", "rootfs", "scripts")
"""Directories of the repository whose files are put into images."""


class Provenance:
    """Knows the components of one build.

    Parameters:
        cache: where Debian's packages and the distributions of PyPI are.
        repository: root of the sources.
        commit: of the sources.
    """

    def __init__(self, cache: PackageCache, repository: Path, commit: str) -> None:
        self._cache = cache
        self._repository = repository
        self._packages: dict[str, Component] = {}
        self.sources = component("sources", "gcs", commit)
        """What is in the repository."""
        self.generated = component("generated", "gcs-image-build", commit)
        """What the build writes itself."""

    def package(self, name: str) -> Component:
        """Return the component of a Debian package."""
        if name not in self._packages:
            deb = self._cache.fetch([name])[name]
            lines = run(["dpkg-deb", "-f", deb, "Package", "Version", "Architecture", "Source"])
            control = dict(line.split(": ", 1) for line in lines.splitlines())
            self._packages[name] = debian_package(control, pins.sha256_of(deb))
        return self._packages[name]

    def distribution(self, path: Path) -> Component:
        """Return the component of a file from PyPI."""
        name, version = distributions.name_and_version(path)
        return python_distribution(name, version, path.name, pins.sha256_of(path))

    def assign(self, tree: Tree) -> None:
        """Give every regular file of a tree that has no origin one.

        Raises:
            BuildError: a file comes from a place on disk that no component is known of.
        """
        for path, node in tree:
            if stat.S_ISREG(node.mode) and node.origin is None:
                node.origin = self._origin(path, node.content)

    def assign_modules(self, tree: Tree, package: str) -> None:
        """Give modules of the kernel, as the build makes them from a package, their origin."""
        for path, node in tree:
            if stat.S_ISREG(node.mode) and path.endswith((".ko", ".ko.xz")):
                note = "stripped, compressed" if path.endswith(".xz") else "stripped"
                node.origin = Origin(self.package(package), note)
            elif stat.S_ISREG(node.mode):
                node.origin = Origin(self.generated)

    def _origin(self, path: str, content: bytes | FileSlice) -> Origin:
        if not isinstance(content, FileSlice):
            return Origin(self.generated)
        package = self._cache.package_of(content.path)
        if package is not None:
            return Origin(self.package(package))
        if any(content.path.is_relative_to(self._repository / name) for name in _SOURCES):
            return Origin(self.sources)
        raise BuildError(f"/{path}: nothing is known of where {content.path} comes from")
