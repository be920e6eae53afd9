"""What an image wants to run, and what a person wants instead: as `docker run` has it."""

from __future__ import annotations

import signal

import pytest

from uvm.errors import UvmError
from uvm.image.command import Wishes, resolve_command
from uvm.image.documents import ProcessConfig

BOTH = ProcessConfig(entrypoint=["/entry", "-x"], cmd=["a", "b"])


@pytest.mark.parametrize(
    ("config", "wishes", "arguments"),
    [
        (BOTH, Wishes(), ("/entry", "-x", "a", "b")),
        (BOTH, Wishes(command=("c",)), ("/entry", "-x", "c")),
        (BOTH, Wishes(entrypoint="/other"), ("/other",)),
        (BOTH, Wishes(entrypoint="/other", command=("c",)), ("/other", "c")),
        (BOTH, Wishes(entrypoint="", command=("c",)), ("c",)),
        (ProcessConfig(cmd=["sh"]), Wishes(), ("sh",)),
        (ProcessConfig(cmd=["sh"]), Wishes(command=("ls", "-l")), ("ls", "-l")),
    ],
)
def test_arguments(config: ProcessConfig, wishes: Wishes, arguments: tuple[str, ...]) -> None:
    assert resolve_command(config, wishes).arguments == arguments


def test_everything_else() -> None:
    config = ProcessConfig(
        cmd=["sh"], env=["A=1", "B=2"], user="web", working_dir="/srv", stop_signal="SIGQUIT"
    )
    wanted = resolve_command(config, Wishes())
    assert wanted.environment == ("A=1", "B=2")
    assert (wanted.user, wanted.working_directory) == ("web", "/srv")
    assert wanted.stop_signal == signal.SIGQUIT
    wishes = Wishes(environment=("B=3",), user="0", working_directory="/")
    wanted = resolve_command(config, wishes)
    # The last assignment of a name prevails.
    assert wanted.environment == ("A=1", "B=2", "B=3")
    assert (wanted.user, wanted.working_directory) == ("0", "/")


@pytest.mark.parametrize(
    ("text", "number"), [("9", 9), ("quit", 3), ("SIGRTMIN+3", signal.SIGRTMIN + 3)]
)
def test_stop_signals(text: str, number: int) -> None:
    config = ProcessConfig(cmd=["sh"], stop_signal=text)
    assert resolve_command(config, Wishes()).stop_signal == number


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (ProcessConfig(), "names no command"),
        (ProcessConfig(cmd=["sh"], working_dir="srv"), "not an absolute path"),
        (ProcessConfig(cmd=["sh"], stop_signal="SIGNAL"), "is no signal"),
    ],
)
def test_what_can_not_be_run(config: ProcessConfig, text: str) -> None:
    with pytest.raises(UvmError, match=text):
        resolve_command(config, Wishes())
