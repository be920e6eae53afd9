"""Flags have the syntax of Go (spec 7.3)."""

from __future__ import annotations

from typing import Any

import pytest

from gcs.cli import FLAGS
from gcs.flags import Flag, FlagError, HelpRequested, parse, usage

SAMPLE = (
    Flag("on", False, "a switch"),
    Flag("number", 7, "a number"),
    Flag("text", "default", "a text"),
)


@pytest.mark.parametrize(
    ("arguments", "expected", "rest"),
    [
        ([], {}, []),
        (["-on"], {"on": True}, []),
        (["--on"], {"on": True}, []),
        (["-on=false"], {"on": False}, []),
        (["-on", "false"], {"on": True}, ["false"]),
        (["-on=T", "-on=0"], {"on": False}, []),
        (["-text", "a", "--text", "b"], {"text": "b"}, []),
        (["-text=a=b"], {"text": "a=b"}, []),
        (["-text="], {"text": ""}, []),
        (["-text", "-on"], {"text": "-on"}, []),
        (["-text", "--", "-on"], {"text": "--", "on": True}, []),
        (["-on", "--", "-text"], {"on": True}, ["-text"]),
        (["-on", "stop", "-text", "x"], {"on": True}, ["stop", "-text", "x"]),
        (["-", "-on"], {}, ["-", "-on"]),
        (["-number", "0x10"], {"number": 16}, []),
        (["-number=0755"], {"number": 493}, []),
        (["-number=0b11"], {"number": 3}, []),
        (["-number=1_000"], {"number": 1000}, []),
        (["-number=18446744073709551615"], {"number": (1 << 64) - 1}, []),
    ],
)
def test_command_lines(arguments: list[str], expected: dict[str, Any], rest: list[str]) -> None:
    values, behind = parse(SAMPLE, arguments)
    assert values == {"on": False, "number": 7, "text": "default", **expected}
    assert behind == rest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-bogus"], "flag provided but not defined: -bogus"),
        (["--bogus=5"], "flag provided but not defined: -bogus"),
        (["-text"], "flag needs an argument: -text"),
        (["---on"], "bad flag syntax: ---on"),
        (["-=x"], "bad flag syntax: -=x"),
        (["-on=yes"], 'invalid value "yes" for flag -on'),
        (["-number=-1"], 'invalid value "-1" for flag -number'),
        (["-number=1.5"], 'invalid value "1.5" for flag -number'),
        (["-number="], 'invalid value "" for flag -number'),
        (["-number= 5"], "unsigned"),
        (["-number=18446744073709551616"], "unsigned"),
    ],
)
def test_command_lines_that_are_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(SAMPLE, arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["-h", "--help", "-help"])
def test_help(argument: str) -> None:
    with pytest.raises(HelpRequested):
        parse(SAMPLE, [argument])


def test_usage_names_every_flag_with_its_default() -> None:
    assert usage("tool", SAMPLE) == (
        "Usage of tool:\n"
        "  -number uint\n    \ta number (default 7)\n"
        "  -on\n    \ta switch\n"
        '  -text string\n    \ta text (default "default")\n'
    )


def test_a_checked_value() -> None:
    def refuse(value: str) -> None:
        raise ValueError(f"{value} is not wanted")

    with pytest.raises(FlagError, match="x is not wanted"):
        parse([Flag("text", "", "", refuse)], ["-text=x"])


def test_the_agent_has_the_flags_and_defaults_of_the_reference() -> None:
    values, _ = parse(FLAGS, [])
    transport = values.pop("transport")
    assert transport == "vsock"
    assert values.pop("runtime") == ""
    assert values.pop("reconnect-hold-ms") == 10_000
    assert values == {
        "loglevel": "debug",
        "core-dump-location": "",
        "kmsgLogLevel": 4,
        "logfile": "",
        "log-format": "text",
        "use-inouterr": False,
        "v4": False,
        "root-mem-reserve-bytes": 78_643_200,
        "gcs-mem-limit-bytes": 52_428_800,
        "disable-time-sync": False,
        "scrub-logs": True,
        "initial-policy-stance": "allow",
    }


@pytest.mark.parametrize(
    "line",
    [
        "-v4 -log-format json -loglevel debug",
        "-v4 -log-format json -loglevel debug -scrub-logs",
        "-v4 -log-format json -loglevel info -disable-time-sync -core-dump-location /tmp/core.%p",
        "-loglevel debug -logfile=/run/gcs/gcs.log",
    ],
)
def test_command_lines_of_real_hosts(line: str) -> None:
    _, rest = parse(FLAGS, line.split())
    assert rest == []


def test_a_flag_for_tests_is_not_in_the_usage_text() -> None:
    text = usage("x", FLAGS)
    assert "-transport" in text
    assert "reconnect-hold-ms" not in text
