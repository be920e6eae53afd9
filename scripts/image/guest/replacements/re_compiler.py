"""`re._compiler` with the results for the patterns that modules compile when they are imported.

They were noted when the image was built; anything else is compiled by the original, which with its
parser is imported on first use. Under emulation a pattern of average size takes 5 ms to compile.
"""

import _sre  # type: ignore[import-not-found]
from re._constants import *  # type: ignore[import-not-found]  # noqa: F403 - as the original has
from re._constants import MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    def _known() -> tuple[int, dict[tuple[object, int], tuple[Any, ...]]]: ...
else:
    from bundle import IMPORTER

    def _known():
        return IMPORTER.get_code("re._known")


_magic, _table = _known()
if _magic != MAGIC:
    _table = {}


def isstring(value: object) -> bool:
    """Whether it is a pattern that has not been parsed."""
    return isinstance(value, str | bytes)


def compile(pattern: "Any", flags: int = 0) -> object:  # noqa: A001 - as the original has
    """Compile a pattern, parsed or not."""
    if isstring(pattern):
        known = _table.get((pattern, flags))
        if known is not None:
            return _sre.compile(*known)
    from re import _original_compiler  # type: ignore[attr-defined]

    return _original_compiler.compile(pattern, flags)
