"""Command lines of ``uvm``."""

import argparse
import signal
from collections.abc import Callable
from typing import Any, TypeAlias

from uvm.boot import BootOptions
from uvm.network.options import NETWORK_SYNTAX, PORT_SYNTAX, parse_network, parse_port
from uvm.network.plugs import DEFAULT_PORTS
from uvm.vm.disks import SCRATCH_MIB
from uvm.vm.nic import MAX_ROOT_PORTS

DESCRIPTION = "Boot utility VMs and run containers in them."
_EPILOG = "Exit status: the container's or process's; 125 when uvm itself fails, 126 when the "
_EPILOG += "program can't be executed, 127 when it does not exist."


def split_command(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split at the first ``--``: options before it, the command to run behind it."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything but the command behind ``--``."""
    parser = argparse.ArgumentParser("uvm", description=DESCRIPTION, epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_boot(commands)
    _add_exec(commands)
    _add_inspection(commands)
    _add_endings(commands)
    return parser


def boot_options(arguments: argparse.Namespace) -> BootOptions:
    """Return the machine that options describe."""
    return BootOptions(
        image_dir=arguments.image_dir,
        kernel=arguments.kernel,
        initrd=arguments.initrd,
        root_disk=arguments.root_disk,
        memory_mib=arguments.memory,
        cpus=arguments.cpus,
        accelerator=arguments.accel,
        vsock=arguments.vsock,
        kernel_options=tuple(arguments.kernel_option),
        network_ports=arguments.network_ports,
    )


def parse_signal(text: str) -> int:
    """Return the number of ``9``, ``KILL`` or ``SIGKILL``."""
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is no signal") from None


_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001


def _add_run(commands: _Commands) -> None:
    parser = commands.add_parser(
        "run",
        usage="uvm run [options] [IMAGE] [-- COMMAND...]",
        help="run a container in a VM of its own",
        description="Boot a VM, run a container in it, relay its streams, exit with its status.",
    )
    parser.add_argument(
        "rootfs",
        nargs="?",
        metavar="IMAGE",
        help="archive of `docker save` or of an OCI layout, OCI layout directory, or a directory "
        "or tar archive with a root file system; #NAME chooses one of several images in it "
        "(default: out/busybox.tar)",
    )
    parser.add_argument(
        "--entrypoint", metavar="PROGRAM", help="run this instead of the image's entry point"
    )
    parser.add_argument("--name", help="run it in this VM (see `uvm boot`) instead of a new one")
    parser.add_argument(
        "-d", "--detach", action="store_true", help="with --name: print its id and leave it"
    )
    parser.add_argument(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="HOSTPATH:/PATH[:ro]",
        help="share a directory or a file of the host with the container; may be repeated",
    )
    parser.add_argument("--hostname", default="uvm", help="host name of the container")
    parser.add_argument("--read-only", action="store_true", help="read-only root file system")
    parser.add_argument(
        "--memory-limit", type=int, metavar="MIB", help="memory limit of the container"
    )
    parser.add_argument(
        "--scratch",
        type=int,
        default=SCRATCH_MIB,
        metavar="MIB",
        help="size of the disk the container writes on (default: %(default)s)",
    )
    parser.add_argument(
        "--timings", action="store_true", help="say on stderr how long each phase took"
    )
    parser.add_argument("--json", action="store_true", help="timings as JSON")
    # What is asked for is built in.
    parser.set_defaults(network_ports=0)
    _add_network_options(parser)
    _add_process_options(parser)
    _add_machine_options(parser)


def _add_boot(commands: _Commands) -> None:
    parser = commands.add_parser(
        "boot", help="boot a VM that stays", description="Boot a VM that stays until `uvm stop`."
    )
    parser.add_argument("--name", default="default", help="its name (default: %(default)s)")
    parser.add_argument("--timings", action="store_true", help="say how long each phase took")
    parser.add_argument("--json", action="store_true", help="timings as JSON")
    parser.add_argument(
        "--network-ports",
        type=_readable(_port_count),
        default=DEFAULT_PORTS,
        metavar="N",
        help="network adapters that containers can have, all together (default: %(default)s)",
    )
    _add_machine_options(parser)


def _add_exec(commands: _Commands) -> None:
    parser = commands.add_parser(
        "exec",
        usage="uvm exec [options] [NAME] -- COMMAND...",
        help="run a process in a VM, or in a container of it",
        description="Run a process in a VM, or in one of its containers.",
    )
    _add_name(parser)
    parser.add_argument("--container", metavar="ID", help="run it in this container")
    _add_process_options(parser)


def _add_inspection(commands: _Commands) -> None:
    listing = commands.add_parser("ps", help="list VMs, containers and processes")
    _add_name(listing)
    listing.add_argument("--json", action="store_true", help="one JSON array")
    statistics = commands.add_parser("stats", help="show what containers use")
    _add_name(statistics)
    _add_container(statistics)
    statistics.add_argument("--json", action="store_true", help="all there is, as JSON")
    stacks = commands.add_parser("stacks", help="show where the agent's tasks and threads stand")
    _add_name(stacks)
    logs = commands.add_parser("logs", help="show the agent's log")
    _add_name(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    logs.add_argument("--json", action="store_true", help="entries as JSON, one a line")


def _add_endings(commands: _Commands) -> None:
    kill = commands.add_parser("kill", help="send a signal to a container or a process")
    kill.add_argument("target", metavar="TARGET", help="beginning of a container's id, or a pid")
    _add_name(kill, option="--name")
    kill.add_argument(
        "-s", "--signal", type=parse_signal, default=signal.SIGKILL, help="default: KILL"
    )
    for name, text in (("pause", "stop the processes of containers"), ("resume", "let them go on")):
        state = commands.add_parser(name, help=text)
        _add_name(state)
        _add_container(state)
    stop = commands.add_parser("stop", help="end a VM")
    _add_name(stop)
    stop.add_argument("--force", action="store_true", help="cut it off at once")


def _add_name(parser: argparse.ArgumentParser, option: str = "name") -> None:
    text = "name of the VM (default: the only one)"
    if option.startswith("-"):
        parser.add_argument(option, metavar="NAME", help=text)
    else:
        parser.add_argument(option, nargs="?", metavar="NAME", help=text)


def _add_container(parser: argparse.ArgumentParser) -> None:
    text = "beginning of a container's id (default: all of them)"
    parser.add_argument("--container", metavar="ID", help=text)


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        action="append",
        type=_readable(parse_network),
        metavar="NETWORK",
        help=f"network of the container: {NETWORK_SYNTAX}; may be repeated (default: user; "
        "with --name, none, or user with -p)",
    )
    parser.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        type=_readable(parse_port),
        metavar=PORT_SYNTAX,
        help="port of the host that leads to one of the container; may be repeated "
        "(default HOSTIP: 127.0.0.1)",
    )


def _port_count(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) <= MAX_ROOT_PORTS:
        return int(text)
    raise ValueError(f"{text!r} is no number from 0 to {MAX_ROOT_PORTS}")


def _readable(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse show what the error of a parser says."""

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--interactive", action="store_true", help="relay standard input")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="environment variable; KEY alone takes the value from here",
    )
    parser.add_argument(
        "-w", "--workdir", help="working directory (default: the image's or the container's, or /)"
    )
    parser.add_argument("-u", "--user", help="user, by name or number, and :group")


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("the VM")
    machine.add_argument("--memory", type=int, default=512, metavar="MIB", help="default: 512")
    machine.add_argument("--cpus", type=int, default=1, metavar="N", help="default: 1")
    machine.add_argument(
        "--image-dir", metavar="DIR", help="directory of the boot files (or UVM_IMAGE_DIR)"
    )
    machine.add_argument("--kernel", metavar="FILE", help="another kernel")
    machine.add_argument("--initrd", metavar="FILE", help="another initial RAM file system")
    machine.add_argument(
        "--root-disk",
        metavar="FILE",
        help="boot from this disk, such as out/rootfs.vhd; the guest sees it as /dev/vda",
    )
    machine.add_argument(
        "--kernel-option", action="append", default=[], metavar="TEXT", help="may be repeated"
    )
    machine.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="default: auto"
    )
    machine.add_argument(
        "--vsock",
        choices=("auto", "user", "kernel"),
        default="auto",
        help="vsock device: our own, or the kernel's vhost-vsock (default: auto)",
    )
    machine.add_argument("--verbose", action="store_true", help="say what is being done")
