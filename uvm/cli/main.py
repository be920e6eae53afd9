"""The ``uvm`` command."""

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.errors import GcsError
from uvm.cli import containers, run as run_command, signals, vms
from uvm.cli.options import build_parser, split_command
from uvm.cli.process import report
from uvm.errors import EXIT_FAILURE, UvmError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine

    Command = Callable[[argparse.Namespace, list[str]], Coroutine[Any, Any, int]]

_COMMANDS: Final[dict[str, "Command"]] = {
    "run": run_command.run,
    "boot": vms.boot,
    "exec": vms.execute,
    "ps": vms.show_processes,
    "kill": vms.kill,
    "pause": containers.pause,
    "resume": containers.resume,
    "stats": containers.show_statistics,
    "stacks": vms.show_stacks,
    "logs": vms.show_logs,
    "stop": vms.stop,
}


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return the exit status.

    Args:
        argv: Arguments without the program's name; by default those of this process.
    """
    given, command = split_command(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        arguments = parser.parse_args(given)
    except SystemExit as end:
        return EXIT_FAILURE if end.code else 0
    try:
        status = signals.run(_COMMANDS[arguments.command](arguments, command))
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads our output any more; the interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except (UvmError, GcsError, OSError) as error:
        return report(error)
    # A process of the VM that a signal killed has 0xffffffff; a status has eight bits.
    return status & 0xFF
