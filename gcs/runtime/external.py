"""Processes of the utility VM itself, outside containers (spec 4.9)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from gcs.linux import tty
from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.runtime.process import Process
from gcs.runtime.spec import check_arguments
from gcs.stdio import ChildDescriptors, TtyRelay

if TYPE_CHECKING:
    from gcs.linux.pidfd import ExitStatus
    from gcs.protocol.requests import ProcessParameters
    from gcs.runtime.children import Children
    from gcs.stdio import StdioSockets

#: What the host is told of a process that a signal ended: -1 (spec appendix E).
KILLED: Final = 0xFFFF_FFFF
_SPAN: Final = "externalProcess"


def command_of(parameters: ProcessParameters) -> list[str]:
    """Check what is to be run, and return its argument vector.

    Raises:
        GcsError: There is none, or a command line that is no sequence of shell words.
        InvalidArgumentError: A NUL byte, or a name that no environment variable can have.
    """
    arguments = list(parameters.command_args)
    if not arguments:
        import shlex

        try:
            arguments = shlex.split(parameters.command_line)
        except ValueError as error:
            raise GcsError(
                f"command line {parameters.command_line[:300]!r} has no shell words: {error}"
            ) from error
    if not arguments:
        raise GcsError("neither CommandArgs nor CommandLine names a program to run")
    check_arguments(arguments, "the command")
    check_arguments([parameters.working_directory], "the working directory")
    for name, value in parameters.environment.items():
        check_arguments((name, value), "the environment")
        if not name or "=" in name:
            raise InvalidArgumentError(f"environment variable {name!r} has no valid name")
    return arguments


def start_external(
    children: Children,
    arguments: list[str],
    parameters: ProcessParameters,
    sockets: StdioSockets,
) -> Process:
    """Start a process of the VM.

    Args:
        children: Starts it.
        arguments: As :func:`command_of` returns them.
        parameters: Environment, directory, and whether it gets a terminal.
        sockets: Its streams, taken over, also when this fails.

    Raises:
        GcsError: The program can't be run.
    """
    start = _start_with_terminal if parameters.emulate_console else _start_with_sockets
    try:
        return start(children, arguments, parameters, sockets)
    except OSError as error:
        where = f" in {parameters.working_directory}" if parameters.working_directory else ""
        raise GcsError(f"cannot run {arguments[0]!r}{where}: {error.strerror}") from error
    finally:
        sockets.close()


def find_program(name: str) -> str:
    """Return the path of a program, looked up in the agent's own PATH unless it has a slash.

    Raises:
        GcsError: Not found.
    """
    if "/" in name:
        return name
    for directory in os.get_exec_path():
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise GcsError(f"program {name!r} not found in PATH {os.environ.get('PATH', os.defpath)}")


def exit_code(status: ExitStatus) -> int:
    """Return the exit code on the wire of a process of the VM."""
    return KILLED if status.signal else status.code


def _start_with_sockets(
    children: Children,
    arguments: list[str],
    parameters: ProcessParameters,
    sockets: StdioSockets,
) -> Process:
    descriptors = ChildDescriptors.of_sockets(sockets)
    try:
        child = children.spawn(
            arguments,
            executable=find_program(arguments[0]),
            environment=parameters.environment,
            directory=parameters.working_directory or None,
            stdin=descriptors.stdin,
            stdout=descriptors.stdout,
            stderr=descriptors.stderr,
        )
    finally:
        descriptors.close()
    return Process(_name(arguments, child.pid), child, None, exit_code=exit_code, span_name=_SPAN)


def _start_with_terminal(
    children: Children,
    arguments: list[str],
    parameters: ProcessParameters,
    sockets: StdioSockets,
) -> Process:
    master, slave = tty.open_pair()
    relay = TtyRelay(f"terminal of {arguments[0]}", master)
    try:
        os.fchmod(slave, 0o600)
        os.fchown(slave, 0, 0)
        child = children.spawn(
            arguments,
            executable=find_program(arguments[0]),
            environment=parameters.environment,
            directory=parameters.working_directory or None,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            terminal=True,
        )
    except BaseException:
        relay.close()
        raise
    finally:
        os.close(slave)
    relay.attach(sockets)
    return Process(_name(arguments, child.pid), child, relay, exit_code=exit_code, span_name=_SPAN)


def _name(arguments: list[str], pid: int) -> str:
    return f"process {pid} ({arguments[0]}) of the VM"
