"""The Python prefix of the delta: interpreter, C library, loader and the modules the guest imports.

Everything lies below /usr/lib/gcs and depends on nothing outside it, so it runs over a base with
another C library, or with none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.image import elf, imports
from scripts.image.distributions import Distributions
from scripts.image.errors import BuildError, run
from scripts.image.origin import Component, Contained, Origin
from scripts.image.rewrite import REWRITTEN
from scripts.image.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.image.architecture import Architecture
    from scripts.image.packages import PackageCache
    from scripts.image.provenance import Provenance

PREFIX = "/usr/lib/gcs"

PACKAGES = (
    "libc6",
    "libcap2",
    "libexpat1",
    "libffi8",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
    "zlib1g",
)

LEFT_OUT = (
    *("_bz2", "_hashlib", "_lzma", "_ssl", "_uuid", "bz2", "lzma", "ssl"),
    *("typing_extensions", "unittest"),
)
"""Imported by others where they exist, and not needed: the guest speaks no TLS (5 MB with OpenSSL),
hashes with the interpreter's own code, unpacks no archives, tests nothing, names no UUIDs after
network cards, and typing has what msgspec would take from the extensions."""

LAZY = (
    "concurrent.futures.thread",  # asyncio.to_thread, by a module's __getattr__
    "encodings.ascii",
    "encodings.latin_1",
)
"""Modules the standard library imports on first use, and the guest uses."""

# Docstrings and asserts go, and so do the columns of code, which help only where sources are.
_COMPILE_FLAGS = ("-IS", "-B", "-OO", "-X", "no_debug_ranges", "-X", "utf8")


# The last two say by whom and when something was compiled, and nobody reads them in the guest.
_STRIP = ("--strip-unneeded", "--remove-section=.comment", "--remove-section=.note.gnu.build-id")

REPLACED = {
    "asyncio": "asyncio_package.py",
    "re._compiler": "re_compiler.py",
}
"""Modules of the standard library whose code comes from guest/replacements."""

_FOLDER = f"{PREFIX}/lib/python3.11"

# The interpreter imports encodings before anything else that is not frozen into it.
_HOOK = "import bundle  # all other modules are in there\n"


@dataclass(frozen=True, slots=True)
class Module:
    """A module that the guest imports, and the file it comes from."""

    name: str
    file: Path
    package: bool


class PythonPrefix:
    """Builds the prefix in a directory.

    Parameters:
        repository: root of the sources.
        work: directory for everything intermediate.
        architecture: of the machine that runs it.
        provenance: the components of this build.
    """

    def __init__(
        self,
        cache: PackageCache,
        repository: Path,
        work: Path,
        architecture: Architecture,
        provenance: Provenance,
    ) -> None:
        self._cache = cache
        self._architecture = architecture
        self._repository = repository
        self._site_packages = work / "site-packages"
        self._full = work / "python"
        self._root = work / "delta"
        self._lib = self._root / PREFIX[1:] / "lib"
        self._folder = self._lib / "python3.11"
        self._work = work
        self._expressions = work / "expressions"
        self._guest = Path(__file__).parent / "guest"
        self._substitutes = self._guest / "substitutes"
        self._provenance = provenance
        self._distributions = Distributions(cache, work, architecture)
        self._origins: dict[Path, Origin] = {}

    def build(self) -> Tree:
        """Build and check the prefix, and return it as a tree."""
        self._cache.unpack_together(PACKAGES, self._full)
        self._site_packages = self._distributions.build()
        sources = imports.modules_of(self._repository / "gcs")
        runnable = [name for name in sources if not name.endswith("__main__")]
        imported = imports.imported_names(sources)
        for name in LEFT_OUT:
            if name in imported and not imported[name].optional:
                raise BuildError(
                    f"{imported[name].place}: import {name}: the image leaves that out"
                )
        names = sorted({*runnable, *imported, *LAZY} - set(LEFT_OUT))
        modules = self._trace(names)
        for name, path in sources.items():
            modules.setdefault(name, Module(name, path, path.name == "__init__.py"))
        shutil.rmtree(self._root, ignore_errors=True)
        self._compile(modules)
        self._copy_binaries(modules)
        self._check_libraries()
        self._check_imports(names)
        tree = Tree()
        tree.add_disk_tree(self._root)
        for path, origin in self._origins.items():
            tree.nodes[path.relative_to(self._root).as_posix()].origin = origin
        return tree

    def _component(self, path: Path) -> Component:
        """Return what a file comes from that went into the prefix."""
        if path.is_relative_to(self._full):
            relative = path.relative_to(self._full)
            for name, folder in zip(sorted(PACKAGES), self._cache.unpack(PACKAGES), strict=True):
                if os.path.lexists(folder / relative):
                    return self._provenance.package(name)
        if path.is_relative_to(self._site_packages):
            return self._provenance.distribution(self._distributions.file_of(path))
        return self._provenance.sources

    def _trace(self, names: list[str]) -> dict[str, Module]:
        folders = [str(self._substitutes), str(self._repository), str(self._site_packages)]
        code = (self._guest / "trace.py").read_text()
        words = [
            "-IS",
            "-B",
            "-X",
            "utf8",
            "-c",
            code,
            str(self._expressions),
            *folders,
            "--",
            *LEFT_OUT,
            "--",
            *names,
        ]
        found = {}
        for line in self._python(words).splitlines():
            name, file, package = line.split("\t")
            found[name] = Module(name, Path(file), bool(package))
        return found

    def _compile(self, modules: dict[str, Module]) -> None:
        """Write the bundle, and the few files the interpreter needs to find and open it."""
        bundled: dict[str, tuple[Component, list[str]]] = {}
        jobs: list[tuple[str, ...]] = [
            self._startup_file("os"),
            self._startup_file("encodings/__init__", _HOOK),
            self._pyc("bundle", self._guest / "bundle.py"),
        ]
        for name, module in sorted(modules.items()):
            place = f"{_FOLDER}/{self._inside(module.file)}"
            if module.file.suffix == ".so":
                jobs.append(("extension", name, place))
            elif name != "encodings":
                package = "package" if module.package else ""
                source = self._replacement(name) or self._rewritten(name, module.file)
                jobs.append(("bundle", name, str(source), place, package))
                component = self._component(source if name in REPLACED else module.file)
                bundled.setdefault(component.ref, (component, []))[1].append(name)
        compiler = modules["re._compiler"].file
        place = f"{_FOLDER}/{self._inside(compiler)}"
        jobs.append(("bundle", "re._original_compiler", str(compiler), place, ""))
        jobs.append(("marshalled", "re._known", str(self._expressions)))
        component = self._component(compiler)
        names = bundled.setdefault(component.ref, (component, []))[1]
        names += ("re._original_compiler", "re._known")
        parts = (Contained(each, " ".join(names)) for _, (each, names) in sorted(bundled.items()))
        self._origins[self._folder / "modules.bundle"] = Origin(
            self._provenance.generated, "modules, compiled", tuple(parts)
        )
        words = [*_COMPILE_FLAGS, "-c", (self._guest / "compile.py").read_text()]
        lines = "".join("\t".join(job) + "\n" for job in jobs)
        self._python([*words, str(self._folder / "modules.bundle")], lines)

    def _replacement(self, name: str) -> Path | None:
        file = REPLACED.get(name)
        return self._guest / "replacements" / file if file else None

    def _rewritten(self, name: str, file: Path) -> Path:
        """Return the file to compile for a module: its own, or a changed copy."""
        rewrite = REWRITTEN.get(name)
        if rewrite is None:
            return file
        source = self._work / "rewritten" / f"{name}.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(rewrite(file.read_text(), str(file)))
        return source

    def _startup_file(self, name: str, before: str = "") -> tuple[str, ...]:
        """Name a file of the standard library to compile, with code put before its own."""
        text = (self._full / "usr/lib/python3.11" / f"{name}.py").read_text()
        source = self._work / "startup" / f"{name}.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(before + text)
        job = self._pyc(name, source)
        original = self._component(self._full / "usr/lib/python3.11" / f"{name}.py")
        note = "compiled, with a line of ours before it" if before else "compiled"
        self._origins[Path(job[1])] = Origin(original, note)
        return job

    def _pyc(self, name: str, source: Path) -> tuple[str, ...]:
        target = self._folder / f"{name}.pyc"
        target.parent.mkdir(parents=True, exist_ok=True)
        self._origins[target] = Origin(self._provenance.sources, "compiled")
        return ("pyc", str(target), str(source), f"{_FOLDER}/{name}.py")

    def _inside(self, path: Path) -> Path:
        """Return where a file lies below the directory that sys.path names."""
        stdlib = self._full / "usr/lib/python3.11"
        for folder in (self._substitutes, stdlib, self._site_packages, self._repository):
            if path.is_relative_to(folder):
                return path.relative_to(folder)
        raise BuildError(f"{path}: an imported module outside the known directories")

    def _copy_binaries(self, modules: dict[str, Module]) -> None:
        (self._root / PREFIX[1:] / "bin").mkdir(parents=True)
        python = self._root / PREFIX[1:] / "bin/python3"
        shutil.copyfile(self._full / "usr/bin/python3.11", python)
        python.chmod(0o755)
        extensions = [each.file for each in modules.values() if each.file.suffix == ".so"]
        # The interpreter warns when this directory is missing, even with nothing to find there.
        (self._folder / "lib-dynload").mkdir(exist_ok=True)
        for path in extensions:
            target = self._folder / self._inside(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755)
            done = ["compiled"] if self._distributions.is_compiled_here(path) else []
            if not path.is_relative_to(self._full):  # Debian's are stripped already
                run([self._architecture.tool("strip"), *_STRIP, target])
                done.append("stripped")
            if elf.dynamic(target.read_bytes()).search:
                run(["patchelf", "--remove-rpath", target])
                done.append("library search path removed")
            self._origins[target] = Origin(self._component(path), ", ".join(done))
        libraries = elf.Libraries([self._full]).closure([python, *extensions])
        for name, (path, _) in sorted(libraries.items()):
            shutil.copyfile(path, self._lib / name)
            (self._lib / name).chmod(0o755)
            self._origins[self._lib / name] = Origin(self._component(path))
        interpreter = f"{PREFIX}/lib/{self._architecture.loader}"
        run(["patchelf", "--set-interpreter", interpreter, python])
        # DT_RPATH, unlike DT_RUNPATH, holds for the libraries of libraries, too, and comes before
        # LD_LIBRARY_PATH; so the libraries themselves need no patching.
        run(["patchelf", "--force-rpath", "--set-rpath", f"{PREFIX}/lib", python])
        original = self._component(self._full / "usr/bin/python3.11")
        self._origins[python] = Origin(original, "loader and library search path set")

    def _check_libraries(self) -> None:
        """Fail when anything in the prefix would make the loader look outside it."""
        inside = {path.name for path in self._lib.glob("*.so*")}
        for path in sorted(self._root.rglob("*")):
            if not path.is_file() or not elf.is_elf(path.read_bytes()):
                continue
            wants = elf.dynamic(path.read_bytes())
            program = path.name == "python3"
            expected = (f"{PREFIX}/lib",) if program else ()
            if wants.search != expected:
                raise BuildError(f"{path}: library search path is {wants.search}")
            if program and wants.interpreter != f"{PREFIX}/lib/{self._architecture.loader}":
                raise BuildError(f"{path}: loader is {wants.interpreter}")
            missing = sorted(set(wants.needed) - inside)
            if missing:
                raise BuildError(f"{path}: needs {missing[0]}, which the prefix has not")

    def _check_imports(self, names: Iterable[str]) -> None:
        """Import everything with nothing but the prefix in sight."""
        code = (self._guest / "check.py").read_text()
        python = f"{PREFIX}/bin/python3"
        enter = ["chroot"] if os.geteuid() == 0 else ["unshare", "-r", "chroot"]
        words = [python, "-IS", "-c", code, PREFIX, *names]
        emulator = self._root / "emulator"
        if not self._architecture.native:
            shutil.copy(_program(self._architecture.emulator), emulator)
            words.insert(0, "/emulator")
        command = [*enter, str(self._root), *words]
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        emulator.unlink(missing_ok=True)
        if done.returncode != 0 or done.stderr:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise BuildError(f"the delta by itself does not run: {lines[-1]}")

    def _python(self, words: list[str], stdin: str = "") -> str:
        """Run the packages' own interpreter with its whole standard library."""
        triplet = self._architecture.triplet
        folders = (self._full / "lib" / triplet, self._full / "usr/lib" / triplet)
        command = self._architecture.command(
            str(folders[0] / self._architecture.loader),
            "--library-path",
            ":".join(map(str, folders)),
            str(self._full / "usr/bin/python3.11"),
            *words,
        )
        environment = {"PYTHONHASHSEED": "0", "LANG": "C"}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise BuildError(f"python modules of the image: {lines[-1]}")
        return done.stdout


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"{name}: not found; install the package qemu-user-static")
    return path
