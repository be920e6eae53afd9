"""Child processes that can't outlive this one."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from uvm.errors import UvmError

_TAIL_BYTES: Final = 32768
_PACKAGE_PARENT: Final = Path(__file__).resolve().parents[2]


class Child:
    """A child process; the kernel kills it when this process ends, however that happens.

    It is watched and signalled by a pidfd, so that nobody else's process is ever meant.

    Args:
        process: The child, just started.
        name: What to call it in messages.
        output: File its output goes to.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", name: str, output: Path) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._ended = asyncio.Event()
        self.name = name
        self.output = output
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    async def spawn(
        cls, arguments: Sequence[str | Path], *, output: Path, pass_fds: Sequence[int] = ()
    ) -> "Child":
        """Start a program in a session of its own: the terminal's signals don't reach it.

        Args:
            arguments: Program and arguments.
            output: File for its stdout and stderr; appended to.
            pass_fds: Descriptors to hand on under their own numbers.

        Raises:
            UvmError: The program is not installed.
        """
        words = [os.fspath(argument) for argument in arguments]
        program = shutil.which(words[0])
        if program is None:
            raise UvmError(f"{words[0]} is not installed")
        # Not in another thread: the child would be killed when that thread ends.
        process = _start(
            ["setpriv", "--pdeathsig", "KILL", "--", program, *words[1:]], output, pass_fds
        )
        return cls(process, Path(program).name, output)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; ``None`` while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end."""
        await self._ended.wait()
        return self._process.returncode

    async def stop(self, *, grace: float = 2.0) -> None:
        """End it: SIGTERM, and SIGKILL after some seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._ended.is_set():
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), grace)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        self._ended.set()

    def complaint(self) -> str:
        """Say how it ended, with its last output."""
        text = tail(self.output, 8)
        return f"{self.name} ended with status {self.returncode}" + (f": {text}" if text else "")


def _start(
    command: Sequence[str], output: Path, pass_fds: Sequence[int]
) -> "subprocess.Popen[bytes]":
    with output.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            env=_environment(),
        )


def _environment() -> dict[str, str]:
    """Return the environment, with this package importable wherever the child starts."""
    search = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in search if entry)}


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a file, without control characters; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    rows = ("".join(char for char in row if char.isprintable()) for row in text.splitlines())
    return "\n".join([row for row in rows if row.strip()][-lines:])
