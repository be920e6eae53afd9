"""Runs the agent here with the modules that the image has, and no others.

`python -IS as_in_the_image.py ARGUMENTS...` with a setting in the environment (see `Setting`): what
is not in the bundle fails to import, as it does in the image, and is named on standard error, in a
line of its own that begins with `MARK`. So each test that runs an agent shows, too, whether the
image has what the agent needs to do as much. Those few that the image leaves out on purpose just
fail. `image_python`, beside this file, does so for programs that the agent starts with its own
interpreter.
"""

import marshal
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NamedTuple

BUNDLE = "build/delta/usr/lib/gcs/lib/python3.11/modules.bundle"
"""Where the build of the image puts it."""

VARIABLE = "AS_IN_THE_IMAGE"
MARK = "imports what the image has not: "


class Setting(NamedTuple):
    """What the variable holds, separated by colons."""

    python: str
    bundle: str
    repository: str
    site_packages: str
    left_out: str
    """Modules that may be missing, separated by commas."""


class OnlyTheBundle:
    """Stands before the finder that looks into directories, after those of built-in modules."""

    def __init__(self, carried: frozenset[str], left_out: frozenset[str]) -> None:
        self._carried = carried
        self._left_out = left_out

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Leave a module of the bundle to the others, and refuse any that they would find."""
        # The agent's own modules are all in there; here, one may be newer than the bundle.
        if name in self._carried or name.partition(".")[0] == "gcs":
            return None
        if name not in self._left_out and PathFinder.find_spec(name, path) is not None:  # type: ignore[arg-type]
            os.write(2, f"{MARK}{name}\n".encode())
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Command(NamedTuple):
    """How to start an agent: the program, and what to add to its environment."""

    program: tuple[str, ...]
    environment: dict[str, str]


def agent_command() -> Command:
    """Return what starts the agent so.

    Where sources were edited since the image was built, its list of modules may be too old; then
    the agent runs with whatever there is. `make test` builds first.
    """
    from pathlib import Path
    from sysconfig import get_path

    from scripts.image.prefix import LEFT_OUT

    repository = Path(__file__).parents[2]
    bundle = repository / BUNDLE
    sources = (repository / "gcs").rglob("*.py")
    if not bundle.exists() or any(
        each.stat().st_mtime > bundle.stat().st_mtime for each in sources
    ):
        return Command((sys.executable, "-m", "gcs"), {})
    setting = Setting(
        sys.executable, str(bundle), str(repository), get_path("platlib"), ",".join(LEFT_OUT)
    )
    return command(setting)


def command(setting: Setting) -> Command:
    """Return what starts the agent so, with a setting."""
    return Command((setting.python, "-IS", __file__), {VARIABLE: ":".join(setting)})


def carried(bundle: str) -> frozenset[str]:
    """Return the names of the modules in a bundle."""
    with open(bundle, "rb") as file:
        length = int.from_bytes(file.read(4), "little")
        return frozenset(marshal.loads(file.read(length)))


def _main() -> None:
    setting = Setting(*os.environ[VARIABLE].split(":"))
    sys.path[:0] = [os.path.join(setting.repository, "scripts/image/guest/substitutes")]
    sys.path += [setting.repository, setting.site_packages]
    finder = OnlyTheBundle(carried(setting.bundle), frozenset(setting.left_out.split(",")))
    sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)
    sys.executable = os.path.join(os.path.dirname(__file__), "image_python")
    if "-c" in sys.argv[1:4]:
        code = sys.argv.pop(sys.argv.index("-c") + 1)
        sys.argv[:] = sys.argv[sys.argv.index("-c") :]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        return
    from gcs.cli import main

    sys.exit(main())


if __name__ == "__main__":
    _main()
