"""Where the files of a base that somebody else made come from: its package database tells.

Known are those of dpkg (Debian, Ubuntu; `status.d` in distroless images) and of apk (Alpine).
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from scripts.image import pins
from scripts.image.origin import Component, Origin, component, package_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.image.tree import Tree

_DPKG = "var/lib/dpkg"
_APK = "lib/apk/db/installed"


def assign(tree: Tree, archive: Path) -> None:
    """Give every regular file of a tree that has no origin one: a package, or the archive."""
    release = _os_release(tree)
    for each, paths in (*_dpkg(tree, release), *_apk(tree, release)):
        for path in paths:
            node = tree.nodes.get(tree.resolve(path))
            if node is not None and stat.S_ISREG(node.mode) and node.origin is None:
                node.origin = Origin(each)
    rest = component(
        "base",
        archive.name,
        release.get("VERSION_ID", "unknown"),
        kind="operating-system",
        sha256=pins.sha256_of(archive),
        properties={"gcs:system": release["PRETTY_NAME"]} if "PRETTY_NAME" in release else {},
    )
    for _, node in tree:
        if stat.S_ISREG(node.mode) and node.origin is None:
            node.origin = Origin(rest)


def _text(tree: Tree, path: str) -> str:
    node = tree.nodes.get(tree.resolve(path))
    if node is None or not stat.S_ISREG(node.mode):
        return ""
    return node.read().decode(errors="surrogateescape")


def _os_release(tree: Tree) -> dict[str, str]:
    lines = _text(tree, "etc/os-release").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, _, value in pairs}


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line[:1] not in ("", " ", "\t")]
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if "Package" in fields:
            yield {key: value.strip() for key, value in fields.items()}


def _dpkg(tree: Tree, release: dict[str, str]) -> Iterator[tuple[Component, list[str]]]:
    singles = [path for path in sorted(tree.nodes) if path.startswith(f"{_DPKG}/status.d/")]
    files = [f"{_DPKG}/status", *(path for path in singles if not path.endswith(".md5sums"))]
    for file in files:
        for fields in _paragraphs(_text(tree, file)):
            name, architecture = fields["Package"], fields.get("Architecture", "")
            text = _text(tree, f"{_DPKG}/info/{name}.list")
            text = text or _text(tree, f"{_DPKG}/info/{name}:{architecture}.list")
            # Distroless images have checksums, in md5sum's form, but no lists.
            sums = _text(tree, f"{file}.md5sums").splitlines()
            paths = [path.lstrip("/") for path in text.splitlines()]
            paths += [line.split(maxsplit=1)[1] for line in sums if len(line.split()) > 1]
            system = release.get("ID", "debian")
            values = {"arch": architecture}
            if "VERSION_ID" in release:
                values["distro"] = f"{system}-{release['VERSION_ID']}"
            version = fields.get("Version", "unknown")
            url = package_url(f"deb/{system}", name, version, values)
            yield component("dpkg", name, version, purl=url), paths


def _apk(tree: Tree, release: dict[str, str]) -> Iterator[tuple[Component, list[str]]]:
    for paragraph in _text(tree, _APK).split("\n\n"):
        name, version, architecture, folder = "", "unknown", "", ""
        paths = []
        for line in paragraph.splitlines():
            key, _, value = line.partition(":")
            if key == "P":
                name = value
            elif key == "V":
                version = value
            elif key == "A":
                architecture = value
            elif key == "F":
                folder = value
            elif key == "R":
                paths.append(f"{folder}/{value}" if folder else value)
        if name:
            system = release.get("ID", "alpine")
            url = package_url(f"apk/{system}", name, version, {"arch": architecture})
            yield component("apk", name, version, purl=url), paths
