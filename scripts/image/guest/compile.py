"""Compile sources, into .pyc files that never look at a source again or into the bundle.

Argument: the bundle file. Standard input has one module a line, fields separated by tabs:
`pyc`, target, source, path that tracebacks show; `bundle`, name, source, path that tracebacks show,
`package` or nothing; `extension`, name, path; `marshalled`, name, file. The form of the bundle: see
bundle.py.
"""

import marshal
import py_compile
import sys


def _main() -> None:
    table: dict[str, tuple[bool, int, int] | str] = {}
    blob = bytearray()
    for line in sys.stdin:
        kind, name, *fields = line.rstrip("\n").split("\t")
        if kind == "extension":
            (table[name],) = fields
        elif kind == "pyc":
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(fields[0], name, fields[1], doraise=True, invalidation_mode=mode)
        elif kind == "marshalled":
            with open(fields[0], "rb") as file:
                data = file.read()
            table[name] = (False, len(blob), len(data))
            blob += data
        else:
            source, shown, package = fields
            with open(source, "rb") as file:
                data = marshal.dumps(compile(file.read(), shown, "exec", dont_inherit=True))
            table[name] = (bool(package), len(blob), len(data))
            blob += data
    # Version 2 has no references between equal objects, whose presence depends on chance.
    head = marshal.dumps(table, 2)
    with open(sys.argv[1], "wb") as file:
        file.write(len(head).to_bytes(4, "little") + head + blob)


_main()
