"""Where the files of an image come from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN = "debian-12"
"""The distribution whose packages the image is made of: the one with Python 3.11."""

Record = dict[str, Any]
"""A component as CycloneDX has it, without the files in it."""


@dataclass(frozen=True, slots=True)
class Component:
    """A package, an archive or a source tree that files come from."""

    ref: str
    """What names it in the list: its package URL where it has one."""
    record: Record = field(compare=False)


@dataclass(frozen=True, slots=True)
class Contained:
    """A component of which something became a part of a file."""

    component: Component
    detail: str = ""
    """What of it: names of modules, separated by blanks."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one file comes from."""

    component: Component
    note: str = ""
    """What was done to it on the way."""
    contains: tuple[Contained, ...] = ()
    """What else is in it."""


def component(
    origin: str,
    name: str,
    version: str,
    *,
    kind: str = "application",
    purl: str = "",
    sha256: str = "",
    properties: Mapping[str, str] | None = None,
) -> Component:
    """Make a component.

    Parameters:
        origin: what kind of place it comes from, in one word.
        name: of the package or what else it is.
        version: what names one of its kind.
        kind: its type, as CycloneDX has it.
        purl: its package URL.
        sha256: of its file, in hexadecimal.
        properties: anything else.
    """
    ref = purl or f"{origin}:{name}"
    record: Record = {"type": kind, "bom-ref": ref, "name": name, "version": version}
    if sha256:
        record["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    if purl:
        record["purl"] = purl
    values = {"gcs:origin": origin, **(properties or {})}
    record["properties"] = [{"name": key, "value": value} for key, value in values.items()]
    return Component(ref, json.loads(json.dumps(record)))


def debian_package(control: Mapping[str, str], sha256: str) -> Component:
    """Return the component of a Debian package.

    Parameters:
        control: fields of its control file.
        sha256: of the package file.
    """
    name, version = control["Package"], control["Version"]
    # "Source: glibc (2.36-9)" where its version is another one.
    source = control.get("Source", name).partition(" ")[0]
    values = {"arch": control["Architecture"], "distro": DEBIAN, "upstream": source}
    return component(
        "debian",
        name,
        version,
        kind="library" if name.startswith("lib") else "application",
        purl=package_url("deb/debian", name, version, values),
        sha256=sha256,
    )


def python_distribution(name: str, version: str, file: str, sha256: str) -> Component:
    """Return the component of a distribution on PyPI."""
    return component(
        "pypi",
        name,
        version,
        kind="library",
        purl=package_url("pypi", name, version, {}),
        sha256=sha256,
        properties={"gcs:file": file},
    )


def package_url(kind: str, name: str, version: str, qualifiers: Mapping[str, str]) -> str:
    """Return a package URL."""
    plain = "-._~"
    tail = "&".join(f"{key}={quote(value, plain)}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{kind}/{quote(name, plain)}@{quote(version, plain)}{'?' if tail else ''}{tail}"
