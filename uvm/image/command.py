"""How a container of an image is run: what the image says, and what the person says instead."""

import signal
from dataclasses import dataclass

from uvm.errors import UvmError
from uvm.image.documents import ProcessConfig


@dataclass(frozen=True)
class Wishes:
    """What a person says about the process; what is empty is left to the image.

    Attributes:
        command: Replaces the image's ``Cmd``.
        entrypoint: Replaces the image's ``Entrypoint``, and drops its ``Cmd``; ``""`` drops both.
        environment: ``KEY=value``; prevails over the image's.
        working_directory: Absolute path.
        user: By name or number.
    """

    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    environment: tuple[str, ...] = ()
    working_directory: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class Resolution:
    """What comes of an image and wishes; attributes as of :class:`Wishes`."""

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    working_directory: str
    user: str | None
    stop_signal: int | None


def resolve_command(config: ProcessConfig, wishes: Wishes) -> Resolution:
    """Combine an image's configuration and a person's wishes, as ``docker run`` does.

    Raises:
        UvmError: Nobody names a command, or the image asks for what makes no sense.
    """
    if wishes.entrypoint is None:
        entrypoint = tuple(config.entrypoint or ())
        command = wishes.command or tuple(config.cmd or ())
    else:
        entrypoint = (wishes.entrypoint,) if wishes.entrypoint else ()
        command = wishes.command
    if not entrypoint + command:
        raise UvmError("the image names no command: give one behind --")
    directory = wishes.working_directory or config.working_dir or "/"
    if not directory.startswith("/"):
        raise UvmError(f"the image's working directory {directory!r} is not an absolute path")
    return Resolution(
        arguments=entrypoint + command,
        environment=(*(config.env or ()), *wishes.environment),
        working_directory=directory,
        user=wishes.user or config.user or None,
        stop_signal=_signal(config.stop_signal) if config.stop_signal else None,
    )


def _signal(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    name = text.upper()
    base, plus, offset = name.removeprefix("SIG").partition("+")
    if base == "RTMIN" and plus and offset.isdecimal():
        return signal.SIGRTMIN + int(offset)
    try:
        return signal.Signals[f"SIG{name.removeprefix('SIG')}"]
    except KeyError:
        raise UvmError(f"the image's stop signal {text!r} is no signal") from None
