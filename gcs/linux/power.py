"""Ending the machine (reboot(2))."""

from __future__ import annotations

import os
import threading

from gcs.linux.libc import call, naming

# linux/reboot.h
LINUX_REBOOT_CMD_RESTART = 0x01234567
LINUX_REBOOT_CMD_HALT = 0xCDEF0123
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC


def write_out_file_systems(seconds: float) -> bool:
    """Write out all file systems (sync(2)), which a disk that hangs can keep from ever ending.

    Args:
        seconds: How long to wait for it.

    Returns:
        Whether it was done within the time; if not, a thread is left that still waits.
    """
    thread = threading.Thread(target=os.sync, name="sync", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def power_off() -> None:
    """Switch the machine off, without writing out anything.

    Does not return when it works.  In a PID namespace of its own it ends that namespace instead
    (its first process is killed by SIGINT).  Raises OSError EPERM without CAP_SYS_BOOT.
    """
    try:
        call("reboot", LINUX_REBOOT_CMD_POWER_OFF)
    except OSError as error:
        raise naming(error, "reboot", "power off") from None
