"""Import modules and print everything that got imported: name, then file, separated by a tab.

Arguments: directories to append to sys.path, `--`, names that must not be imported, `--`, names
to import. A name whose last part is an attribute of the module before it is fine. Nothing is
imported here that the modules themselves do not import, as it would show up in the list.
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


def _main() -> None:
    folders, left_out, names = _split(sys.argv[1:])
    sys.path += folders
    for name in left_out:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    for name in names:
        sys.excepthook = lambda kind, value, _, name=name: sys.stderr.write(
            f"import {name}: {kind.__name__}: {value}\n"
        )
        _import(name)
    sys.excepthook = sys.__excepthook__
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or name == "__main__":
            continue
        file = spec.origin if spec.has_location else getattr(module, "__file__", None)
        # A module frozen into the interpreter has its file, too, for -X frozen_modules=off.
        sys.stdout.write(f"{spec.name}\t{file or ''}\n")


_main()
