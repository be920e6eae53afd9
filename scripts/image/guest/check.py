"""Run inside nothing but the delta: import everything, and see that all of it lies in the prefix.

Arguments: the prefix, then names to import as for trace.py.
"""

import sys


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
    prefix, *names = sys.argv[1:]
    for folder in (sys.prefix, sys.exec_prefix, *sys.path):
        if folder != prefix and not folder.startswith(prefix + "/"):
            sys.exit(f"the interpreter looks for modules in {folder}, outside {prefix}")
    for name in names:
        sys.excepthook = _Report(name)
        _import(name)
    for name in sorted(sys.modules):
        sys.excepthook = _Report(name)
        hasattr(sys.modules[name], "_any")  # makes a lazy module run
    sys.excepthook = sys.__excepthook__
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        origin = spec.origin if spec is not None else None
        if origin not in (None, "built-in", "frozen") and not origin.startswith(prefix + "/"):
            sys.exit(f"module {name} comes from {origin}, outside {prefix}")


_main()
