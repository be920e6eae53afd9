"""Errors of the host tool; the text of each one is meant for the person at the terminal."""

from typing import Final

#: Exit status of a command that failed for a reason of its own (as ``docker run`` has it).
EXIT_FAILURE: Final = 125
#: The container's program exists and can't be executed.
EXIT_NOT_EXECUTABLE: Final = 126
#: The container's program does not exist.
EXIT_NOT_FOUND: Final = 127


class UvmError(Exception):
    """Something went wrong on the host's side of the VM."""


class BridgeClosedError(UvmError):
    """The connection to the agent is gone; every call on it fails with this one."""


class BridgeTimeoutError(BridgeClosedError):
    """An answer did not come in time. The connection is given up, as a real host does."""


class BootError(UvmError):
    """A VM did not come up.

    Args:
        message: What was waited for, and how it ended.
        console: The last lines of the serial console, shown below the message.
    """

    def __init__(self, message: str, console: str = "") -> None:
        super().__init__(message)
        self.console = console

    def __str__(self) -> str:
        message = str(self.args[0])
        if not self.console:
            return message
        lines = "\n".join(f"  | {line}" for line in self.console.splitlines())
        return f"{message}\nlast lines of the serial console:\n{lines}"


class MissingFileError(UvmError):
    """A boot file is not there."""


class ListenError(UvmError):
    """A port of the host can't be listened on."""


class VmNotFoundError(UvmError):
    """No VM of that name is running."""
