"""`/bin/vsockexec`: run a program with its standard streams connected to the host (spec 7.2).

    vsockexec [-r] [-i port] [-o port] [-e port] [--] program [argument…]

-i, -o, -e: port for standard input, output and error; the same port twice is one connection.
-r: keep the connection outside the program, see `gcs.init.relay`.
-t: where ports are found, see `gcs.init.dial.Dialer`; for use without a virtual machine.
"""

from __future__ import annotations

import os
import sys

from gcs.init import kmsg
from gcs.init.dial import Dialer
from gcs.init.launch import ensure_standard_descriptors, run_program
from gcs.init.options import UsageError, parse_options, parse_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

TYPE_CHECKING = False

USAGE = "usage: vsockexec [-r] [-i port] [-o port] [-e port] [--] program [argument...]"

# The kernel's own limit for a vsock connection is 2 s.
CONNECT_TIMEOUT = 10.0

_DESCRIPTORS = {"i": 0, "o": 1, "e": 2}


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns a status only when that failed, and with -r the program's.

    argv: the command line with vsockexec's own name; default: the process's own.

    Status 1: wrong usage, a port that cannot be connected, a program that cannot be executed.
    """
    ensure_standard_descriptors()
    try:
        options, command = parse_options((sys.argv if argv is None else argv)[1:], "i:o:e:rt:")
        ports = {_DESCRIPTORS[key]: parse_port(value) for key, value in options if key in "ioe"}
        values = dict(options)
        dialer = Dialer(values.get("t", "vsock"))
        if not command:
            raise UsageError("missing program")
        if "r" in values and not (ports.keys() & {1, 2}):
            raise UsageError("-r needs -o or -e")
    except UsageError as error:
        kmsg.say(f"vsockexec: {error}\n{USAGE}")
        return 1
    if "r" in values:
        from gcs.init.relay import run_relayed

        return run_relayed(dialer, ports, command, inherited_environment())
    try:
        connect_streams(dialer, ports)
    except OSError as error:
        kmsg.say(f"vsockexec: connect: {kmsg.describe(error)}")
        return 1
    try:
        run_program(command, inherited_environment())
    except OSError as error:
        kmsg.say(f"vsockexec: {kmsg.describe(error)}")
        return 1


def connect_streams(dialer: Dialer, ports: dict[int, int]) -> None:
    """Put a connection to a port in place of each descriptor that `ports` names.

    Raises OSError when a connection fails; then no descriptor has been replaced.
    """
    connections: dict[int, socket] = {}
    try:
        for port in ports.values():
            if port not in connections:
                connections[port] = dialer.dial(port, CONNECT_TIMEOUT)
        for connection in connections.values():
            connection.setblocking(True)
        for descriptor, port in ports.items():
            os.dup2(connections[port].fileno(), descriptor)
    finally:
        for connection in connections.values():
            connection.close()


def inherited_environment() -> dict[str, str]:
    """The environment that was given to this process.

    In the C locale the interpreter adds LC_CTYPE to its environment at start; a program run in
    place of this one must not get what its starter did not set.
    """
    environment = dict(os.environ)
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read()
    except OSError:
        return environment  # nothing is known of the original
    if not any(entry.startswith(b"LC_CTYPE=") for entry in given.split(b"\0")):
        environment.pop("LC_CTYPE", None)
    return environment
