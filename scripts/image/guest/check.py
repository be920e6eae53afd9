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


def _main() -> None:
    prefix, *names = sys.argv[1:]
    for folder in (sys.prefix, sys.exec_prefix, *sys.path):
        if folder != prefix and not folder.startswith(prefix + "/"):
            sys.exit(f"the interpreter looks for modules in {folder}, outside {prefix}")
    for name in names:
        sys.excepthook = lambda kind, value, _, name=name: sys.stderr.write(
            f"import {name}: {kind.__name__}: {value}\n"
        )
        _import(name)
    sys.excepthook = sys.__excepthook__
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and not file.startswith(prefix + "/"):
            sys.exit(f"module {name} comes from {file}, outside {prefix}")


_main()
