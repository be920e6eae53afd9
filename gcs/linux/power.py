"""Ending the machine (reboot(2))."""

from __future__ import annotations

import os

from gcs.linux.libc import call, naming

# linux/reboot.h
LINUX_REBOOT_CMD_RESTART = 0x01234567
LINUX_REBOOT_CMD_HALT = 0xCDEF0123
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC


def power_off() -> None:
    """Write out file systems, then switch the machine off.

    Does not return when it works.  In a PID namespace of its own it ends that namespace instead
    (its first process is killed by SIGINT).  Raises OSError EPERM without CAP_SYS_BOOT.
    """
    os.sync()
    try:
        call("reboot", LINUX_REBOOT_CMD_POWER_OFF)
    except OSError as error:
        raise naming(error, "reboot", "power off") from None
