"""Import modules and print what got imported from files: name, file, and `package` or nothing.

Arguments: a file for the regular expressions that are compiled meanwhile (marshalled: the magic
number of their form, and a table from pattern and flags to what `_sre.compile` takes), a directory
to put before sys.path, directories to append to it, `--`, names that must not be imported, `--`,
names to import. A name whose last part is an attribute of the module before
it is fine. Nothing is imported here that the modules themselves do not import, as it would show up
in the list.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _split(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _import(name: str) -> None:
    parent, _, last = name.rpartition(".")
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name or not parent:
            raise
        __import__(parent)
        if not hasattr(sys.modules[parent], last):
            raise


class _Report:
    """Says on one line which import failed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, kind: type[BaseException], value: BaseException, trace: object) -> None:
        sys.stderr.write(f"import {self._name}: {kind.__name__}: {value}\n")


class _Recorder:
    """Takes the place of `re._compiler._sre`, and notes what becomes of patterns."""

    def __init__(self) -> None:
        import re._compiler as compiler  # type: ignore[import-not-found]

        self.table: dict[tuple[object, int], tuple[object, ...]] = {}
        self._sre = compiler._sre  # noqa: SLF001
        self._compile = compiler.compile
        self._latest: tuple[object, ...] = ()
        self.magic = self._sre.MAGIC
        compiler._sre = self  # noqa: SLF001
        compiler.compile = self.compile_pattern
        # Compiled by re itself, before this was in place.
        compiler.compile("", 0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sre, name)

    def compile(self, *arguments: "Any") -> object:
        pattern, flags, code, *groups = arguments
        # Some numbers are of types with names, which can't be marshalled.
        self._latest = (pattern, int(flags), [int(word) for word in code], *groups)
        return self._sre.compile(*arguments)

    def compile_pattern(self, pattern: object, flags: int = 0) -> object:
        compiled = self._compile(pattern, flags)
        if type(pattern) in (str, bytes):
            self.table[pattern, int(flags)] = self._latest
        return compiled


def _main() -> None:
    (expressions, *folders), left_out, names = _split(sys.argv[1:])
    recorder = _Recorder()
    sys.path[:0] = folders[:1]
    sys.path += folders[1:]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    for name in names:
        sys.excepthook = _Report(name)
        _import(name)
    sys.excepthook = sys.__excepthook__
    import marshal

    with open(expressions, "wb") as file:
        # Sorted, and without references between equal objects, so that it is the same each time.
        table = dict(sorted(recorder.table.items(), key=repr))
        file.write(marshal.dumps((recorder.magic, table), 2))
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.has_location and name != "__main__":
            package = "package" if spec.submodule_search_locations is not None else ""
            sys.stdout.write(f"{spec.name}\t{spec.origin}\t{package}\n")


_main()
