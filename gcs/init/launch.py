"""Becoming another program: by execve, or in place when it is one of our own scripts.

`/init`, `/bin/vsockexec` and `/bin/gcs` are scripts for one and the same interpreter, and each
starts the next.  Running the script in the interpreter that is already there saves its start, 8 to
20 ms natively and ten times that under emulation, two times per boot.
"""

from __future__ import annotations

import builtins
import errno
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself takes 5 ms to import, for its enumerations

DEFAULT_PATH = "/sbin:/usr/sbin:/bin:/usr/bin"

_SHELL = "/bin/sh"


def run_program(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Turn this process into the program `argv[0]`, with exactly this environment.

    The program is searched in the environment's PATH unless its name has a slash.  A script whose
    first line names the interpreter and options that this process runs with is run in place, as
    `__main__`, and ends in SystemExit, which the caller must let pass; everything else is executed,
    with all signals that the interpreter ignores back at their defaults.

    Raises OSError naming the program when it cannot be found or executed.
    """
    path = find_program(argv[0], environment.get("PATH", DEFAULT_PATH))
    if is_own_script(path):
        _run_script(path, argv, environment)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(path, argv, environment)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            # A script without a first line that names an interpreter, as execvp(3) treats it.
            os.execve(_SHELL, [_SHELL, path, *argv[1:]], environment)
        raise OSError(error.errno, f"exec: {error.strerror}", path) from None


def find_program(name: str, search_path: str) -> str:
    """The file to execute for `name`.

    Raises OSError naming the program: PermissionError when only files that may not be executed
    were found, FileNotFoundError when there is none at all.
    """
    if "/" in name:
        return name
    number = errno.ENOENT
    for directory in search_path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            number = errno.EACCES
    raise OSError(number, f"exec: {os.strerror(number)}", name)


def ensure_standard_descriptors() -> None:
    """Open /dev/null for each of the descriptors 0, 1 and 2 that is closed.

    The kernel starts PID 1 without them when there is no console; the next file opened would then
    become somebody's standard output.  Raises OSError when /dev/null cannot be opened.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            else:
                os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            stream = open(  # noqa: SIM115 - lives as long as the process
                descriptor, mode, closefd=False, errors="backslashreplace"
            )
            setattr(sys, name, stream)


def is_own_script(path: str) -> bool:
    """Whether the kernel would run `path` with the very interpreter and options of this process."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False  # execve finds the same reason and names it
    try:
        start = os.read(descriptor, 256) if os.access(path, os.X_OK) else b""
    except OSError:
        return False  # a directory, which execve refuses
    finally:
        os.close(descriptor)
    first_line = start.split(b"\n", 1)[0]
    if not first_line.startswith(b"#!"):
        return False
    # The kernel passes what follows the interpreter's path as one single argument.
    words = [os.fsdecode(word) for word in first_line[2:].strip().split(None, 1)]
    return len(words) > 0 and sys.orig_argv[: len(words)] == words


def _run_script(path: str, argv: list[str], environment: dict[str, str]) -> NoReturn:
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [path, *argv[1:]]
    set_process_name(os.path.basename(path))
    gc.enable()
    module = type(sys)("__main__")
    module.__dict__.update({"__builtins__": builtins, "__file__": path})
    sys.modules["__main__"] = module
    try:
        exec(code, module.__dict__)
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - what the interpreter does with the main script
        sys.excepthook(*sys.exc_info())
        raise SystemExit(1) from None
    raise SystemExit(0)


def set_process_name(name: str) -> None:
    """Name this thread as `ps -o comm` shows it, what execve would have done."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write(name)
    except OSError:
        # Without /proc nobody could read the name either.
        return
