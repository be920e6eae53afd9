"""Command lines of /init and vsockexec, as the host writes them."""

from __future__ import annotations

import pytest

from gcs.init.dial import Dialer
from gcs.init.options import UsageError, parse_options, parse_port
from gcs.init.pid1 import Options


@pytest.mark.parametrize(
    ("arguments", "options", "rest"),
    [
        (["-e", "1", "prog", "-e", "2"], [("e", "1")], ["prog", "-e", "2"]),
        (["-e1", "prog"], [("e", "1")], ["prog"]),
        (["-we", "1", "prog"], [("w", ""), ("e", "1")], ["prog"]),
        (["-we1"], [("w", ""), ("e", "1")], []),
        (["-w", "--", "-e", "x"], [("w", "")], ["-e", "x"]),
        (["-e", "--", "prog"], [("e", "--")], ["prog"]),
        (["-", "-w"], [], ["-", "-w"]),
        ([], [], []),
    ],
)
def test_options_end_at_the_first_operand(
    arguments: list[str], options: list[tuple[str, str]], rest: list[str]
) -> None:
    assert parse_options(arguments, "d:e:w") == (options, rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-x"], "unknown option -x"), (["-w:"], "unknown option -:"), (["-e"], "-e needs a value")],
)
def test_wrong_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_options(arguments, "d:e:w")


@pytest.mark.parametrize("text", ["0", "", "x", "1x", "-1", "4294967295", "0x1", "٣", " 1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(UsageError, match="invalid port"):
        parse_port(text)


def test_highest_port() -> None:
    assert parse_port("4294967294") == 4294967294


def test_init_without_arguments_starts_the_agent_and_a_shell_that_counts() -> None:
    options = Options([])
    assert options.command == ["/bin/gcs", "-loglevel", "debug", "-logfile=/run/gcs/gcs.log"]
    assert options.shell == "/bin/sh"
    assert options.entropy_port == 0
    assert not options.writable


def test_init_with_the_command_line_of_the_host() -> None:
    command = ["/bin/vsockexec", "-e", "109", "/bin/gcs", "-v4", "-log-format", "json"]
    options = Options(["-e", "1", "-w", "-d", "/bin/ash", *command])
    assert options.command == command
    assert options.entropy_port == 1
    assert options.writable
    assert options.shell == "/bin/ash"


@pytest.mark.parametrize(
    "arguments",
    [["-e", "0", "true"], ["-e", "junk", "true"], ["-x", "true"], ["-e", "1"], ["-w"], ["--"]],
)
def test_wrong_command_lines_of_init(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        Options(arguments)


@pytest.mark.parametrize("transport", ["", "unix", "unix:", "tcp:1", "vsock:"])
def test_what_is_no_transport(transport: str) -> None:
    with pytest.raises(UsageError, match="invalid transport"):
        Dialer(transport)
