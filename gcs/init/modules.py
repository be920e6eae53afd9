"""Loading kernel modules at boot, for kernels that have not everything built in (spec 7.1).

Two rules.  When `/lib/modules/<release>/modules.load` exists, its modules are loaded, in its order,
and nothing else: an image for a generic kernel, whose modules must not all be loaded, lists there
what it needs.  Otherwise the network modules are loaded by name and then every module there is.
Dependencies are taken from modules.dep, blacklists and options from modprobe.d(5).
"""

from __future__ import annotations

import os

from gcs.init import kmsg
from gcs.linux.module import SUFFIXES, load_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Wanted early and by name: adapters added later, vsock, and container networks need them.
PRELOAD = ("hv_netvsc", "hv_sock", "bridge", "veth", "nf_conntrack", "br_netfilter")

_CONFIGURATION_DIRECTORIES = ("etc", "run", "usr/local/lib", "usr/lib", "lib")


def module_name(path: str) -> str:
    """The kernel's name of a module file, or of a name written with dashes."""
    name = path.rpartition("/")[2]
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("-", "_")


def is_hyperv_module(name: str, path: str) -> bool:
    """Whether a module belongs to Hyper-V; such modules can hang or confuse another machine."""
    return name.startswith("hv_") or "hyperv" in name or path.startswith("kernel/drivers/hv/")


def machine_is_hyperv(root: str = "/") -> bool:
    """Whether there is a VMBus, or the firmware says the machine is Microsoft's."""
    if os.path.isdir(f"{root}sys/bus/vmbus"):
        return True
    try:
        with open(f"{root}sys/class/dmi/id/sys_vendor", encoding="ascii", errors="replace") as file:
            return file.read().strip() == "Microsoft Corporation"
    except OSError:
        return False  # no DMI on this machine


class ModuleLoader:
    """Loads modules of one kernel release with what they depend on, each once."""

    __slots__ = (
        "_blacklist",
        "_dependencies",
        "_directory",
        "_done",
        "_hyperv",
        "_load",
        "_names",
        "_options",
        "failures",
        "loaded",
    )

    def __init__(
        self,
        release: str,
        *,
        root: str = "/",
        hyperv: bool | None = None,
        load: Callable[[str, str], bool] = load_module,
    ) -> None:
        """Read modules.dep and the configuration.

        release: of the running kernel, the name of its directory in /lib/modules.
        root: of the file system, ending in "/".
        hyperv: whether the machine is Hyper-V's; default: look.
        load: function that loads one file with parameters; False when it was loaded already.

        Raises OSError when modules.dep or a configuration file cannot be read.
        """
        self._directory = f"{root}lib/modules/{release}"
        self._hyperv = machine_is_hyperv(root) if hyperv is None else hyperv
        self._load = load
        self._done: dict[str, bool] = {}
        self.loaded: list[str] = []
        """Names of the modules that were loaded, in order."""
        self.failures: dict[str, str] = {}
        """Reason by name of each module that could not be loaded."""
        self._dependencies: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        with open(f"{self._directory}/modules.dep", encoding="utf-8") as file:
            for line in file:
                path, _, needed = line.partition(":")
                self._dependencies[path] = needed.split()
                self._names[module_name(path)] = path
        self._blacklist, self._options = read_configuration(root)

    def load_all(self) -> None:
        """Load what the module's documentation says."""
        listed = self._listed()
        if listed is not None:
            for name in listed:
                if module_name(name) not in self._blacklist:
                    self.load(name)
            return
        for name in PRELOAD:
            if name in self._names:  # otherwise built into the kernel, or of no use to it
                self.load(name)
        for name in self._names:
            if name not in self._blacklist:
                self.load(name)

    def load(self, name: str) -> bool:
        """Load one module by name, after those it depends on; whether it is there now.

        A failure is kept in `failures` and does not end anything.
        """
        name = module_name(name)
        path = self._names.get(name)
        if path is None:
            built_in = name in self._built_in()
            if not built_in:
                self.failures[name] = "neither in modules.dep nor built into the kernel"
            return built_in
        # modules.dep lists all dependencies, not only direct ones, those to load first at the end.
        needed = [*reversed(self._dependencies[path]), path]
        if not self._hyperv and any(is_hyperv_module(module_name(item), item) for item in needed):
            return False
        return all(self._load_file(item) for item in needed)

    def _load_file(self, path: str) -> bool:
        known = self._done.get(path)
        if known is not None:
            return known
        name = module_name(path)
        file = path if path.startswith("/") else f"{self._directory}/{path}"
        try:
            if self._load(file, self._options.get(name, "")):
                self.loaded.append(name)
        except OSError as error:
            self.failures[name] = error.strerror or str(error)
        self._done[path] = name not in self.failures
        return self._done[path]

    def _built_in(self) -> set[str]:
        try:
            with open(f"{self._directory}/modules.builtin", encoding="utf-8") as file:
                return {module_name(line.rstrip("\n")) for line in file}
        except FileNotFoundError:
            return set()  # an image with few modules may leave it out

    def _listed(self) -> list[str] | None:
        try:
            with open(f"{self._directory}/modules.load", encoding="utf-8") as file:
                return _lines(file)
        except FileNotFoundError:
            return None


def read_configuration(root: str = "/") -> tuple[set[str], dict[str, str]]:
    """Blacklisted names, and options by name, of modprobe.d(5) and the kernel command line."""
    blacklist: set[str] = set()
    options: dict[str, str] = {}
    for directory in _CONFIGURATION_DIRECTORIES:
        folder = f"{root}{directory}/modprobe.d"
        if not os.path.isdir(folder):
            continue
        for entry in sorted(os.listdir(folder)):
            if entry.endswith(".conf"):
                with open(f"{folder}/{entry}", encoding="utf-8", errors="replace") as file:
                    _read_directives(_lines(file), blacklist, options)
    with open(f"{root}proc/cmdline", encoding="utf-8", errors="replace") as file:
        for word in file.read().split():
            key, _, value = word.partition("=")
            module, dot, _ = key.partition(".")
            if key == "modprobe.blacklist":
                blacklist.update(module_name(name) for name in value.split(","))
            elif dot:
                name = module_name(module)
                options[name] = f"{options.get(name, '')} {word[len(module) + 1 :]}".lstrip()
    return blacklist, options


def _read_directives(lines: list[str], blacklist: set[str], options: dict[str, str]) -> None:
    for line in lines:
        words = line.split()
        if words[0] == "blacklist" and len(words) == 2:
            blacklist.add(module_name(words[1]))
        elif words[0] == "options" and len(words) > 2:
            name = module_name(words[1])
            options[name] = " ".join([*options.get(name, "").split(), *words[2:]])


def _lines(file: Iterable[str]) -> list[str]:
    """Lines without comments and blanks."""
    stripped = (line.split("#", 1)[0].strip() for line in file)
    return [line for line in stripped if line]


def load_modules() -> None:
    """Load the modules of the running kernel, if it has any; log what happened.

    Nothing here ends the boot: what misses a module fails later and says so.
    """
    release = os.uname().release
    if not os.path.isdir(f"/lib/modules/{release}"):
        return
    try:
        loader = ModuleLoader(release)
        loader.load_all()
    except (OSError, UnicodeDecodeError) as error:
        kmsg.warning(f"modules: {error}")
        return
    kmsg.info(f"modules loaded: {len(loader.loaded)}, failed: {len(loader.failures)}")
    for name, reason in loader.failures.items():
        kmsg.warning(f"module {name}: {reason}")
