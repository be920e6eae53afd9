"""Compile sources to .pyc files that never look at a source again (unchecked hash).

Standard input holds lines of source, target and the path tracebacks show, separated by tabs.
"""

import py_compile
import sys

for line in sys.stdin:
    source, target, shown = line.rstrip("\n").split("\t")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(source, target, shown, doraise=True, invalidation_mode=mode)
