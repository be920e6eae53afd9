"""`generichook <program> arguments…`: an OCI hook that fills in what is known only when it runs.

The runtime writes the state of the container to standard input; arguments and values of the
environment are templates (`gcs.tools.template`), such as `--pid={{pid}}` (spec 7.6).
"""

from __future__ import annotations

import os

from gcs.tools import say
from gcs.tools.run import ProgramError, run
from gcs.tools.state import State, StateError, read_state
from gcs.tools.template import TemplateError, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcs.tools.template import Function, Value

#: Variable with the path of a file that tells more about a failure.
LOG_VARIABLE = "GENERIC_HOOK_LOG_DEBUG_FILE"
#: Bytes of that file in one log entry: what forwards entries to the host's log has a limit.
CHUNK = 8000


def main(arguments: list[str]) -> int:
    """Run the hook; returns the exit status, 0 or 1."""
    try:
        _run(arguments)
    except (StateError, TemplateError, ProgramError) as error:
        say.entry("error", f"error in generic hook: {error}")
    except OSError as error:
        say.entry("error", f"error in generic hook: {say.error_text(error)}")
    else:
        return 0
    path = os.environ.get(LOG_VARIABLE)
    if path:
        _show(path)
    return 1


def functions_of(state: State) -> dict[str, Function]:
    """Return the functions that templates have for a container."""

    def annotation(key: Value) -> Value:
        if not isinstance(key, str):
            raise TemplateError(f"annotation takes a string, not {key!r}")
        return state.annotations.get(key, "")

    return {"id": lambda: state.id, "pid": lambda: state.pid, "annotation": annotation}


def render_environment(
    environment: Mapping[str, str], functions: dict[str, Function]
) -> dict[str, str]:
    """Fill in an environment; a name can be a template as well.

    Raises TemplateError.
    """
    rendered = {}
    for name, value in environment.items():
        key, _, text = render(f"{name}={value}", functions).partition("=")
        rendered[key] = text
    return rendered


def _run(arguments: list[str]) -> None:
    if not arguments:
        raise TemplateError("usage: generichook PROGRAM [ARGUMENT…]: no program to run")
    with open(0, "rb", closefd=False) as source:
        functions = functions_of(read_state(source.read()))
    command = [render(argument, functions) for argument in arguments]
    run(command, render_environment(os.environ, functions))


def _show(path: str) -> None:
    try:
        with open(path, "rb") as file:
            part = 0
            while chunk := file.read(CHUNK):
                text = chunk.decode("utf-8", "replace")
                say.entry("info", f"{path} debug part {part}", output=text)
                part += 1
    except OSError as error:
        say.entry("error", f"failed to read debug file at {say.error_text(error)}")
