"""Running one program and collecting what it writes.

Not by `subprocess`, whose import takes longer than everything else a helper does.
"""

from __future__ import annotations

import os

from gcs.init.launch import DEFAULT_PATH, find_program


class ProgramError(Exception):
    """A program failed.

    status: how it ended, "exit status 1" or "signal 9".
    output: what it wrote, standard error included.
    """

    def __init__(self, name: str, status: str, output: str) -> None:
        super().__init__(f"{name}: {status}: {output.strip() or 'it wrote nothing'}")
        self.status = status
        self.output = output


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a program to its end, without input; returns what it wrote, standard error included.

    command: argument vector; the program is looked up in the PATH of this process.
    environment: all it gets; by default that of this process.

    Raises ProgramError when it fails, OSError naming it when it can't be executed.
    """
    program = find_program(command[0], os.environ.get("PATH", DEFAULT_PATH))
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, source, to) for source, to in ((null, 0), (writer, 1))]
    actions.append((os.POSIX_SPAWN_DUP2, writer, 2))
    try:
        pid = os.posix_spawn(
            program,
            command,
            os.environ if environment is None else environment,
            file_actions=actions,
        )
    except OSError as error:
        os.close(reader)
        raise OSError(error.errno, error.strerror, program) from None
    finally:
        os.close(writer)
        os.close(null)
    chunks = []
    with open(reader, "rb", buffering=0) as output:
        while chunk := output.read(65536):
            chunks.append(chunk)
    _, status = os.waitpid(pid, 0)
    text = b"".join(chunks).decode("utf-8", "replace")
    if os.WIFSIGNALED(status):
        raise ProgramError(command[0], f"signal {os.WTERMSIG(status)}", text)
    if os.WEXITSTATUS(status):
        raise ProgramError(command[0], f"exit status {os.WEXITSTATUS(status)}", text)
    return text
