"""Random numbers from the host for a machine that has just been made (spec 7.1, 2.1).

The host writes 512 bytes to whoever connects, and closes; it waits for this connection before it
accepts the agent's.
"""

from __future__ import annotations

import errno
import os
import select

from gcs.init import kmsg
from gcs.linux.entropy import add_entropy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from gcs.init.dial import Dialer

# The host gives up the boot two minutes after the start, so that waiting much longer for a
# connection or the next bytes gains nothing, and half of it leaves the agent a chance.
TIMEOUT = 60.0

_CHUNK = 4096


def seed_from_host(dialer: Dialer, port: int) -> int:
    """Feed all that the host sends on `port` to the kernel; returns the number of bytes.

    Failures are logged and end it early: the machine works without, only its first random numbers
    are worse.
    """
    try:
        connection = dialer.dial(port, TIMEOUT)
    except OSError as error:
        kmsg.warning(f"entropy: {kmsg.describe(error)}")
        return 0
    total = 0
    try:
        device = os.open("/dev/random", os.O_RDWR | os.O_CLOEXEC)
        try:
            while data := _receive(connection):
                add_entropy(device, data)
                total += len(data)
        finally:
            os.close(device)
    except OSError as error:
        kmsg.warning(f"entropy of port {port}, after {total} bytes: {kmsg.describe(error)}")
    finally:
        connection.close()
    return total


def _receive(connection: socket) -> bytes:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(TIMEOUT * 1000):
        raise TimeoutError(errno.ETIMEDOUT, f"the host sent nothing for {TIMEOUT:.0f} s")
    return connection.recv(_CHUNK)
