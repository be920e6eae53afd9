"""Write the lock file anew, with what the archives have today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.image import base, distributions, native, pins, prefix
from scripts.image.architecture import ARCHITECTURES, Architecture
from scripts.image.distributions import Distributions, newest
from scripts.image.errors import BuildError
from scripts.image.kernel import kernel_package
from scripts.image.packages import PackageCache

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    *base.PACKAGES,
    *prefix.PACKAGES,
    *distributions.HEADERS,
    *native.PACKAGES,
)
"""Debian packages of every image; the kernel for QEMU is found by the one that depends on it."""


def refresh(work: Path, path: Path = pins.LOCK_FILE) -> None:
    """Write the lock file for every architecture, and say what changed.

    Parameters:
        work: directory for downloads.
        path: the lock file.

    Raises:
        BuildError: a package is not to be had.
    """
    before = {_key(pin): pin for pin in pins.read(path)} if path.exists() else {}
    found: dict[tuple[str, str, str], pins.Pin] = {}
    for architecture in ARCHITECTURES.values():
        folder = work if architecture.native else work / architecture.name
        cache = PackageCache(folder / "cache", architecture, pins.Pins([], path))
        for pin in (*_debian(cache, architecture), *_pypi(cache, folder, architecture)):
            found[_key(pin)] = pin
    pins.Pins(found.values(), path).write()
    for key in sorted({*before, *found}):
        old, new = before.get(key), found.get(key)
        if old != new:
            print(*key, old.version if old else "new", "→", new.version if new else "gone")


def _key(pin: pins.Pin) -> tuple[str, str, str]:
    return (pin.source, pin.architecture, pin.name)


def _debian(cache: PackageCache, architecture: Architecture) -> list[pins.Pin]:
    print(f"fetching Debian's package lists for {architecture.name}", flush=True)
    if not cache.apt.can_update:
        raise BuildError("package lists can't be fetched; run 'make lock' as root")
    cache.apt.update()
    newest_kernel = architecture.kernel_package
    names = {*PACKAGES, newest_kernel}
    available = cache.apt.available(names)
    if newest_kernel in available:
        kernel = kernel_package(newest_kernel, available[newest_kernel].depends)
        names.add(kernel)
        available |= cache.apt.available([kernel])
    missing = sorted(names - set(available))
    if missing:
        raise BuildError(f"Debian has no {', '.join(missing)} for {architecture.name}")
    return [
        pins.Pin("debian", architecture.name, name, each.candidate, each.checksums[each.candidate])
        for name, each in available.items()
    ]


def _pypi(cache: PackageCache, folder: Path, architecture: Architecture) -> list[pins.Pin]:
    found = Distributions(cache, folder, architecture)
    return [newest(name, found) for name in distributions.DISTRIBUTIONS]
