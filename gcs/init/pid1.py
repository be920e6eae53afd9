"""`/init`, the first process of the machine (spec 7.1).

Mounts the file systems, loads modules, fetches entropy from the host, starts the program of its
command line, and then gives its place to a program that only reaps, until the one it started ends
(`gcs/init/reaper.c`).  Its own end is a kernel panic, by which the host notices.

The order of actions is the reference's, except that modules are loaded right after /proc and /sys
are there: overlay and IPv6 may be modules too.
"""

from __future__ import annotations

import gc
import os
import sys

from gcs.init import filesystems, kmsg
from gcs.init.launch import (
    DEFAULT_PATH,
    ensure_standard_descriptors,
    find_program,
    is_own_script,
    run_program,
)
from gcs.init.options import UsageError, parse_options, parse_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from _socket import socket
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself takes 5 ms to import, for its enumerations

ENVIRONMENT = {"PATH": DEFAULT_PATH}
"""All that the programs started here get."""

# The hard limit is for programs with many files; a higher soft limit would break those that use
# select(2) or close every possible descriptor.
SOFT_FILE_LIMIT = 1024
HARD_FILE_LIMIT = 1024 * 1024

REAPER = "/usr/lib/gcs/bin/init"
"""What PID 1 becomes."""

_LOG_DIRECTORY = "/run/gcs"
_DEFAULT_COMMAND = ["/bin/gcs", "-loglevel", "debug", f"-logfile={_LOG_DIRECTORY}/gcs.log"]
_DEFAULT_SHELL = "/bin/sh"

_SERVICES = (
    ["/bin/nvidia-persistenced"],
    ["/bin/nv-fabricmanager", "-c", "/usr/share/nvidia/nvswitch/fabricmanager.cfg"],
)


class Options:
    """The command line of `/init`."""

    __slots__ = ("command", "entropy_port", "shell", "transport", "writable")

    def __init__(self, arguments: list[str]) -> None:
        """Read `[-d shell] [-e port] [-w] [command…]`; UsageError when it is wrong.

        -d: start this shell besides the command; the machine lives as long as the shell.
        -e: port on which the host gives entropy.
        -w: put writable overlays over /etc and /var.
        -t: where ports are found, see `gcs.init.dial.Dialer`; for use without a virtual machine.
        """
        self.shell = ""
        self.entropy_port = 0
        self.writable = False
        self.transport = "vsock"
        if not arguments:
            self.command = list(_DEFAULT_COMMAND)
            self.shell = _DEFAULT_SHELL
            return
        options, self.command = parse_options(arguments, "d:e:wt:")
        for letter, value in options:
            if letter == "d":
                self.shell = value
            elif letter == "e":
                self.entropy_port = parse_port(value)
            elif letter == "w":
                self.writable = True
            else:
                self.transport = value
        if not self.command and not self.shell:
            raise UsageError("no command to run")


def main(argv: list[str] | None = None) -> int:
    """Run as PID 1; returns the status to exit with, when something failed.

    argv: the command line with the program's name; default: the process's own.

    Errors of a step without which the machine is of no use are written to the console and to the
    kernel log, and their errno is the status; a wrong command line gives 1.
    """
    try:
        options = Options((sys.argv if argv is None else argv)[1:])
    except UsageError as error:
        kmsg.say(f"init: {error}")
        return 1
    # Nothing in here can be a cycle worth collecting, and a collection would write to every object
    # shared with the child.
    gc.disable()
    try:
        prepare_machine(options)
        start(options)
    except OSError as error:
        kmsg.say(f"init: {kmsg.describe(error)}")
        kmsg.error(kmsg.describe(error))
        return error.errno or 1


def prepare_machine(options: Options) -> None:
    """Everything up to the start of the first program; OSError for what cannot be done without."""
    from gcs.init.cgroups import CgroupMounter
    from gcs.init.modules import load_modules
    from gcs.linux.interface import bring_up
    from gcs.linux.syscalls import Linux

    # SIGCHLD included: waiting works all the same.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    syscalls = Linux()
    filesystems.apply_table(filesystems.ROOT_TABLE, syscalls)
    ensure_standard_descriptors()
    set_file_limits()
    load_modules()
    if options.writable:
        filesystems.apply_table(filesystems.OVERLAY_TABLE, syscalls)
    version = CgroupMounter(syscalls).mount()
    kmsg.info(f"cgroup v{version} mounted")
    bring_up("lo")
    if options.entropy_port:
        from gcs.init.dial import Dialer
        from gcs.init.entropy import seed_from_host

        seed_from_host(Dialer(options.transport), options.entropy_port)


def set_file_limits() -> None:
    """Limit the number of open files, of this process and so of all others."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT_FILE_LIMIT, HARD_FILE_LIMIT))
    except ValueError as error:
        # Above fs.nr_open, or without CAP_SYS_RESOURCE: no reason to end the machine.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        kmsg.warning(f"hard limit of open files stays {hard}: {error}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(SOFT_FILE_LIMIT, hard), hard))


def start(options: Options) -> NoReturn:
    """Start services, command and shell, and wait for the one whose end is the machine's.

    Raises OSError when a process cannot be made, or the waiting program is missing.
    """
    from gcs.init.cgroups import AGENT_GROUP, enter
    from gcs.init.supervisor import make_channel

    for service in _SERVICES:
        if os.path.exists(service[0]):
            kmsg.info(f"starting {service[0]}")
            spawn(service)
    if options.command == _DEFAULT_COMMAND:
        os.makedirs(_LOG_DIRECTORY, exist_ok=True)
    supervisor, agent = channel = make_channel()
    entered = _runs_agent(options.command) and enter(AGENT_GROUP)
    command = spawn(options.command, channel) if options.command else 0
    agent.close()
    # The shell takes over as the process that counts.
    primary = spawn([options.shell], group="/" if entered else "") if options.shell else command
    os.set_inheritable(supervisor.fileno(), True)
    try:
        os.execv(REAPER, ["/init", str(primary), str(command), str(supervisor.fileno())])
    except OSError as error:
        raise OSError(error.errno, f"exec: {error.strerror}", REAPER) from None


def _runs_agent(command: list[str]) -> bool:
    """Whether a command is one of our scripts, which become the agent in the same process."""
    try:
        return bool(command) and is_own_script(find_program(command[0], ENVIRONMENT["PATH"]))
    except OSError:
        return False  # spawn finds the same reason and names it


def spawn(command: list[str], channel: tuple[socket, socket] | None = None, group: str = "") -> int:
    """Start a program in a session of its own, with ENVIRONMENT; returns its process id.

    channel: to its supervisor, for one of our own programs; others don't inherit it.
    group: control group it is to run in; default: that of this process.

    In the child it does not return: it raises SystemExit at the latest, with the errno as status
    when the program cannot be executed.
    """
    # Keeps the collector of a child that stays in this interpreter off the pages it shares.
    gc.freeze()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        if channel is not None:
            from gcs.init.supervisor import use_channel

            use_channel(channel)
        if group:
            from gcs.init.cgroups import enter

            enter(group)
        run_program(command, ENVIRONMENT)
    except OSError as error:
        kmsg.say(f"init: {kmsg.describe(error)}")
        kmsg.error(kmsg.describe(error))
        raise SystemExit(error.errno or 1) from None
