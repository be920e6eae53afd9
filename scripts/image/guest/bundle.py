"""Import the guest's modules from one file, without searching directories.

The file, beside this module, is: length of the table (4 bytes, little endian), the table
(marshalled), and the code of all modules, each marshalled. The table maps a module's name to
(is a package, offset, length), or, for an extension module, to its path. Under emulation this
makes the imports of the agent a quarter faster than a directory of .pyc files does.

Some modules are imported by others for rare occasions, at a price that each start would pay: those
in LAZY run when something in them is used first.

This is imported while the interpreter starts, so it may use built-in modules only.
"""

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader
from _thread import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
else:
    ModuleType = type(sys)

FILE = __file__.rpartition("/")[0] + "/modules.bundle"
FOLDER = FILE.rpartition("/")[0]

LAZY = frozenset(
    {
        "ast",
        "asyncio.sslproto",
        "asyncio.staggered",
        "concurrent.futures",
        "dis",
        "inspect",
        "linecache",
        "locale",
        "msgspec.inspect",
        "msgspec.msgpack",
        "msgspec.structs",
        "msgspec.toml",
        "msgspec.yaml",
        "re._parser",
        "subprocess",
        "textwrap",
        "tokenize",
        "traceback",
    }
)

# The C code of asyncio takes this function when it is imported, and calls it in debug mode only.
_FUNCTIONS_TAKEN = {"traceback": "extract_stack"}

_ASKED_BY_IMPORTS = frozenset({"__cached__", "__file__", "__path__"})
_running = RLock()
_begun: set[str] = set()


class LazyModule(ModuleType):
    """A module whose code has not run to its end."""

    def __getattr__(self, name: str) -> object:
        """Run the code; only called for a name the module does not have yet.

        Another thread waits until the code has run. The thread that runs it may come back here, as
        modules can import each other, and then sees the module as far as it got.
        """
        if name in _ASKED_BY_IMPORTS:
            raise AttributeError(name)
        own = self.__name__
        with _running:
            if type(self) is LazyModule and own not in _begun:
                _begun.add(own)
                try:
                    exec(IMPORTER.get_code(own), self.__dict__)
                finally:
                    _begun.discard(own)
                self.__class__ = ModuleType  # type: ignore[assignment]
            if name in self.__dict__:
                return self.__dict__[name]
        if type(self) is not LazyModule:
            # A module may have a function for names that it has not.
            return getattr(self, name)
        raise AttributeError(f"module {own!r} has no attribute {name!r}", name=name, obj=self)


class BundleImporter:
    """Finds and loads what is in the bundle; anything else is left to the other importers."""

    def __init__(self) -> None:
        length = int.from_bytes(_read(0, 4), "little")
        self._table = marshal.loads(_read(4, length))
        self._start = 4 + length

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module in the bundle."""
        entry = self._table.get(name)
        if entry is None:
            return None
        if isinstance(entry, str):
            return ModuleSpec(name, ExtensionFileLoader(name, entry), origin=entry)
        spec = ModuleSpec(name, self, origin=FILE, is_package=entry[0])  # type: ignore[arg-type]
        if entry[0]:
            spec.submodule_search_locations = [f"{FOLDER}/{name.replace('.', '/')}"]
        return spec

    def create_module(self, spec: ModuleSpec) -> "ModuleType | None":
        """Make a lazy module, or let the import system make an ordinary one."""
        if spec.name not in LAZY:
            return None
        module = LazyModule(spec.name)
        function = _FUNCTIONS_TAKEN.get(spec.name)
        if function is not None:
            module.__dict__[function] = _forwarder(module, function)
        return module

    def exec_module(self, module: "ModuleType") -> None:
        """Run a module's code, except a lazy one's."""
        if module.__name__ in LAZY:
            return
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> "CodeType":
        """Return a module's code object."""
        _, offset, length = self._table[name]
        code: CodeType = marshal.loads(_read(self._start + offset, length))
        return code


def _forwarder(module: LazyModule, name: str) -> "Callable[..., object]":
    """Return a function in place of one that is taken from a module before it has run."""

    def forward(*arguments: object, **keywords: object) -> object:
        if module.__dict__[name] is forward:
            del module.__dict__[name]
        return getattr(module, name)(*arguments, **keywords)

    return forward


def _read(offset: int, length: int) -> bytes:
    # Opened anew each time: a descriptor kept open would not survive a close_range().
    file = posix.open(FILE, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.pread(file, length, offset)
    finally:
        posix.close(file)


IMPORTER = BundleImporter()
# Nothing is anywhere else, so that no directory has to be searched for what is missing.
sys.meta_path[:] = [
    IMPORTER,
    *(finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"),
]
