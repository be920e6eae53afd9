"""Calls into the C library for what the standard library does not wrap; errno becomes OSError.

Uses `_ctypes`, the C half of `ctypes`, directly.  The Python half (`ctypes/__init__.py`) takes 3 ms
more of start-up in every process and offers nothing that a call with integers, byte strings and
buffers needs.
"""

from __future__ import annotations

import _ctypes
import os
from _ctypes import _SimpleCData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    _Number = _SimpleCData[int]
else:
    _Number = _SimpleCData  # cannot be subscripted when it runs

_MACHINE_NUMBERS = {
    # syscall(2) numbers of calls that glibc has no function for
    "x86_64": {"finit_module": 313, "bpf": 321},
    "aarch64": {"finit_module": 273, "bpf": 280},
}


class _Int(_Number):
    _type_ = "i"


class _Long(_Number):
    _type_ = "l"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_functions: dict[str, Callable[..., int]] = {}


def _function(name: str) -> Callable[..., int]:
    found = _functions.get(name)
    if found is None:
        # A null name is the process itself, which is linked with the C library.
        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        found = _functions[name] = _Function(_ctypes.dlsym(library, name))
    return found


def call(name: str, *arguments: int | bytes | bytearray | None) -> int:
    """Call the C function `name`, without the interpreter's lock.

    Integers are passed as `long` (a function that takes `int` ignores the upper half on x86-64 and
    arm64), `bytes` as pointers to a constant zero-terminated string, a `bytearray` as a pointer to
    a buffer that the function may write to, None as a null pointer.

    Returns the function's `int` result.  Raises OSError without a file name when it is -1; callers
    add what they were working on with `naming`.
    """
    converted: list[object] = []
    for argument in arguments:
        if isinstance(argument, int):
            converted.append(_Long(argument))
        elif isinstance(argument, bytearray):
            converted.append((_Char * len(argument)).from_buffer(argument))
        else:
            converted.append(argument)
    result = _function(name)(*converted)
    if result == -1:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(name: str, *arguments: int | bytes | bytearray | None) -> int:
    """Call the kernel directly (syscall(2)); arguments, result and errors as `call`.

    Raises OSError(ENOSYS) on machines whose numbers are not known here.
    """
    number = _MACHINE_NUMBERS.get(os.uname().machine, {}).get(name)
    if number is None:
        from errno import ENOSYS

        raise OSError(ENOSYS, f"system call number of {name} on {os.uname().machine} unknown")
    return call("syscall", number, *arguments)


def naming(error: OSError, action: str, path: str, second_path: str | None = None) -> OSError:
    """The same error as `error`, of the same class, that says what was done to which object."""
    text = f"{action}: {error.strerror}"
    if second_path is None:
        return OSError(error.errno, text, path)
    return OSError(error.errno, text, path, None, second_path)
