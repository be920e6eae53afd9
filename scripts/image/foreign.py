"""The guest's third-party modules for a machine of another kind than the one that builds.

Wheels exist for those with extension modules, but for python-prctl, which is compiled here. What is
Python alone comes from the virtual environment. All versions are those that are installed there.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib import metadata
from typing import TYPE_CHECKING

from scripts.image.errors import BuildError, run

if TYPE_CHECKING:
    from pathlib import Path

    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

WHEELS = ("msgpack", "msgspec")
PURE = ("cgroupspy", "prctl.py", "pyroute2")
COMPILED = "python-prctl"
HEADERS = ("libcap-dev", "libcap2", "libpython3.11-dev")


class ForeignModules:
    """Makes a directory of modules.

    Parameters:
        cache: packages of the architecture, for headers and libraries.
        installed: site-packages of the virtual environment.
        work: where the directory, and everything on the way to it, goes.
        architecture: which machine the modules are for.
    """

    def __init__(
        self, cache: PackageCache, installed: Path, work: Path, architecture: Architecture
    ) -> None:
        self._cache = cache
        self._installed = installed
        self._downloads = work / "wheels"
        self._work = work
        self._architecture = architecture

    def build(self) -> Path:
        """Return the directory.

        Raises:
            BuildError: a module can't be downloaded or compiled.
        """
        target = self._work / "site-packages"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in PURE:
            source = self._installed / name
            if source.is_dir():
                shutil.copytree(source, target / name)
            else:
                shutil.copy(source, target / name)
        for name in WHEELS:
            self._unpack_wheel(name, target)
        self._compile_prctl(target)
        return target

    def _unpack_wheel(self, name: str, target: Path) -> None:
        platform = self._architecture.wheel
        options = ("--only-binary=:all:", "--python-version=3.11", f"--platform={platform}")
        with zipfile.ZipFile(self._download(name, "*.whl", *options)) as wheel:
            wheel.extractall(target)

    def _compile_prctl(self, target: Path) -> None:
        source = self._work / "prctl"
        shutil.rmtree(source, ignore_errors=True)
        options = ("--no-binary=:all:", "--no-build-isolation")
        source.mkdir(parents=True)
        run(["tar", "-xzf", self._download(COMPILED, "*.tar.gz", *options), "-C", source])
        (code,) = source.glob("*/_prctlmodule.c")
        triplet = self._architecture.triplet
        folders = self._cache.unpack(HEADERS)
        headers, libraries = [], []
        for each in folders:
            headers += [f"-I{each}/usr/include", f"-I{each}/usr/include/python3.11"]
            libraries += [f"-L{each}/lib/{triplet}", f"-L{each}/usr/lib/{triplet}"]
        output = target / f"_prctl.cpython-311-{triplet}.so"
        compiler = self._architecture.tool("gcc")
        shared = ("-shared", "-fPIC", "-O2", "-DNDEBUG", f"-ffile-prefix-map={source}=.")
        run([compiler, *shared, *headers, code, *libraries, "-l:libcap.so.2", "-o", output])

    def _download(self, name: str, pattern: str, *options: str) -> Path:
        version = metadata.version(name)
        folder = self._downloads / f"{name}-{version}"
        if not any(folder.glob(pattern)):
            print(f"downloading {name} {version} for {self._architecture.name}", flush=True)
            pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
            run([*pip, "--no-deps", *options, "-d", folder, f"{name}=={version}"])
        files = sorted(folder.glob(pattern))
        if not files:
            raise BuildError(f"pip downloaded no {pattern} of {name} {version}")
        return files[0]
