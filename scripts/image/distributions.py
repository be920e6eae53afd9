"""The guest's third-party modules, from PyPI: files that the lock file names, never installed.

Wheels exist for those with extension modules, but for python-prctl, which is compiled here. The
virtual environment is no source of them: its versions are those of the day it was made.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image import pins
from scripts.image.errors import BuildError, run, warn
from scripts.image.lock import locked

if TYPE_CHECKING:
    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache

WHEELS = ("msgpack", "msgspec")
PURE_WHEELS = ("pyroute2",)
SOURCES = {"cgroupspy": "cgroupspy", "python-prctl": "prctl.py"}
"""Distributions that have no wheels, and what of them is Python."""

DISTRIBUTIONS = (*WHEELS, *PURE_WHEELS, *SOURCES)

COMPILED = "python-prctl"
HEADERS = ("libcap-dev", "libcap2", "libpython3.11-dev")
"""Debian packages that it is compiled against."""

ANY = "any"
"""In the place of an architecture, where a distribution fits all."""

_NOT_THERE = ("No matching distribution", "Could not find a version")
"""How pip says that PyPI has no such version."""

_ROOT = Path(__file__).resolve().parents[2]


class Distributions:
    """Downloads distributions, and makes a directory of modules from them.

    Parameters:
        cache: packages of the architecture, for headers and libraries; its lock file counts.
        work: where the directory, and everything on the way to it, goes.
        architecture: which machine the modules are for.
    """

    def __init__(self, cache: PackageCache, work: Path, architecture: Architecture) -> None:
        self._cache = cache
        self._downloads = cache.root / "wheels"
        self._work = work
        self._architecture = architecture
        self._files: dict[str, str] = {}
        self._compiled_module = f"_prctl.cpython-311-{architecture.triplet}.so"

    def build(self) -> Path:
        """Return the directory.

        Raises:
            BuildError: a module can't be downloaded or compiled.
        """
        target = self._work / "site-packages"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in (*WHEELS, *PURE_WHEELS):
            with zipfile.ZipFile(self.fetch(name)) as wheel:
                wheel.extractall(target)
                self._files |= {path.partition("/")[0]: name for path in wheel.namelist()}
        for name, module in SOURCES.items():
            source = self._unpack(name)
            if (source / module).is_dir():
                shutil.copytree(source / module, target / module)
            else:
                shutil.copy(source / module, target / module)
            self._files[module] = name
            if name == COMPILED:
                self._compile(source, target)
                self._files[self._compiled_module] = name
        return target

    def is_compiled_here(self, path: Path) -> bool:
        """Tell whether a file comes out of the compiler."""
        return path == self._work / "site-packages" / self._compiled_module

    def file_of(self, path: Path) -> Path:
        """Return the distribution that a file in the directory comes from."""
        return self.fetch(self._files[path.relative_to(self._work / "site-packages").parts[0]])

    def fetch(self, name: str) -> Path:
        """Return the file of a distribution, downloading it unless it is there.

        Raises:
            BuildError: PyPI has no such distribution, the file has another checksum than the lock
                file, or the lock file can't be followed and has to be.
        """
        pin = self._cache.pins.pypi(self.architecture_of(name), name)
        with locked(self._cache.root / "pypi.lock"):
            path = self._downloads / pin.file if pin is not None else None
            if path is None or not path.is_file():
                path = self._locked_version(name, pin)
        if pin is not None and path.name == pin.file:
            pins.verify(path, pin)
        return path

    def architecture_of(self, name: str) -> str:
        """Return what the lock file calls the architecture of a distribution."""
        return self._architecture.name if name in WHEELS else ANY

    def _locked_version(self, name: str, pin: pins.Pin | None) -> Path:
        if pin is not None:
            try:
                path = self.download(name, f"{name}=={pin.version}")
            except BuildError as error:
                if not any(text in str(error) for text in _NOT_THERE):
                    raise
            else:
                if path.name == pin.file:
                    return path
                return self._substitute(pin.file, path)
        path = self.download(name, _requirement(name))
        return self._substitute(pin.file if pin is not None else f"{name} of any version", path)

    def _substitute(self, wanted: str, path: Path) -> Path:
        text = f"PyPI has {path.name}, but not {wanted} as in {self._cache.pins.path.name}"
        if self._cache.strict:
            raise BuildError(f"{text}; 'make lock' takes it over")
        warn(f"{text}; going on with it, 'make lock' takes it over")
        return path

    def download(self, name: str, requirement: str) -> Path:
        """Download what satisfies a requirement, and return the file.

        Raises:
            BuildError: there is none, or PyPI can't be reached.
        """
        print(f"downloading {requirement} for {self._architecture.name} from PyPI", flush=True)
        folder = self._work / "download"
        shutil.rmtree(folder, ignore_errors=True)
        if name in SOURCES:
            options = ["--no-binary=:all:", "--no-build-isolation"]
        else:
            platform = self._architecture.wheel
            options = ["--only-binary=:all:", "--python-version=3.11", f"--platform={platform}"]
        pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
        run([*pip, "--no-deps", *options, "-d", folder, requirement])
        files = list(folder.iterdir())
        if len(files) != 1:
            raise BuildError(f"pip downloaded {len(files)} files for {requirement}, not one")
        self._downloads.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(files[0], self._downloads / files[0].name))

    def _unpack(self, name: str) -> Path:
        folder = self._work / "sources" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(["tar", "-xzf", self.fetch(name), "-C", folder])
        (source,) = folder.iterdir()
        return source

    def _compile(self, source: Path, target: Path) -> None:
        triplet = self._architecture.triplet
        headers, libraries = [], []
        for each in self._cache.unpack(HEADERS):
            headers += [f"-I{each}/usr/include", f"-I{each}/usr/include/python3.11"]
            libraries += [f"-L{each}/lib/{triplet}", f"-L{each}/usr/lib/{triplet}"]
        output = target / self._compiled_module
        compiler = self._architecture.tool("gcc")
        flags = ("-shared", "-fPIC", "-O2", "-DNDEBUG", "-fno-ident", "-Wl,--build-id=none")
        # The source is named without its directory, which may not show in the result.
        words = [compiler, *flags, *headers, "_prctlmodule.c", *libraries, "-l:libcap.so.2"]
        run([*words, "-o", output], cwd=source)


def _requirement(name: str) -> str:
    """Return what pyproject.toml requires of a distribution."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        if requirement.startswith(name):
            return str(requirement)
    raise BuildError(f"pyproject.toml does not require {name}")


def name_and_version(path: Path) -> tuple[str, str]:
    """Return the name and version of a distribution, by the name of its file."""
    if path.name.endswith(".whl"):
        name, version, *_ = path.name.split("-")
    else:
        name, _, version = path.name.removesuffix(".tar.gz").rpartition("-")
    return name, version


def newest(name: str, distributions: Distributions) -> pins.Pin:
    """Return the pin of the newest version of a distribution that pyproject.toml allows.

    Raises:
        BuildError: it can't be downloaded.
    """
    path = distributions.download(name, _requirement(name))
    version = name_and_version(path)[1]
    architecture = distributions.architecture_of(name)
    return pins.Pin("pypi", architecture, name, version, pins.sha256_of(path), path.name)
