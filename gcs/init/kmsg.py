"""Messages of PID 1 to the kernel log, /dev/kmsg, as `<priority>text` (spec 7.1).

A syslog daemon does not exist in the machine; the agent forwards the kernel log to the host.
"""

from __future__ import annotations

import os

ERROR = 3
WARNING = 4
INFO = 6

DEVICE = "/dev/kmsg"


def say(text: str) -> None:
    """Write a line to the standard error stream, the console in the case of PID 1."""
    try:
        os.write(2, text.encode(errors="surrogateescape") + b"\n")
    except OSError:
        # The console may be missing or gone, and there is nobody left to tell.
        return


def log(priority: int, text: str) -> None:
    """Write one line to the kernel log, to standard error when that is impossible.

    The device is opened for each message: the kernel limits the rate per open file, and nothing
    stays open that a child could inherit.
    """
    # The kernel cuts a record at 1024 bytes less its own prefix, and reads a line end as its end.
    line = f"<{priority}>init: {text}".replace("\n", " ").encode(errors="surrogateescape")
    try:
        descriptor = os.open(DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        say(f"init: {text} ({DEVICE}: {error.strerror})")
        return
    try:
        os.write(descriptor, line[:960] + b"\n")
    except OSError as error:
        say(f"init: {text} ({DEVICE}: {error.strerror})")
    finally:
        os.close(descriptor)


def error(text: str) -> None:
    """Log what ends PID 1, or the program it was started for."""
    log(ERROR, text)


def warning(text: str) -> None:
    """Log what went wrong without ending anything."""
    log(WARNING, text)


def info(text: str) -> None:
    """Log progress."""
    log(INFO, text)


def describe(error: OSError) -> str:
    """An error as a person reads it: what it is about, then the reason, without its number."""
    objects = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*objects, error.strerror or str(error)])
