"""Import modules and print what got imported from files: name, file, and `package` or nothing.

Arguments: a directory to put before sys.path, directories to append to it, `--`, names that must
not be imported, `--`, names to import. A name whose last part is an attribute of the module before
it is fine. Nothing is imported here that the modules themselves do not import, as it would show up
in the list.
"""

import sys


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


def _main() -> None:
    folders, left_out, names = _split(sys.argv[1:])
    sys.path[:0] = folders[:1]
    sys.path += folders[1:]
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    for name in names:
        sys.excepthook = _Report(name)
        _import(name)
    sys.excepthook = sys.__excepthook__
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and spec.has_location and name != "__main__":
            package = "package" if spec.submodule_search_locations is not None else ""
            sys.stdout.write(f"{spec.name}\t{spec.origin}\t{package}\n")


_main()
