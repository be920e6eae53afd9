"""`snp-report`: print the attestation report of the machine (delta-dev and delta-snp)."""

from __future__ import annotations

import sys

from gcs.flags import Flag, FlagError, HelpRequested, parse, usage
from gcs.linux.sev import ReportError, describe_report, fetch_report
from gcs.tools import say

PROGRAM = "snp-report"

FLAGS = (
    Flag("report-data", "", "hexadecimal data, at most 64 bytes, to become part of the report"),
    Flag("binary", False, "print the bytes of the report, hexadecimal, and nothing else"),
    Flag("verbose", False, "print one field a line"),
)
_WIDTH = 18


def main(argv: list[str] | None = None) -> int:
    """Print the report; returns the exit status, 1 when there is none.

    argv: without the program's name; by default that of the process.
    """
    try:
        values, _ = parse(FLAGS, sys.argv[1:] if argv is None else argv)
        try:
            data = bytes.fromhex(values["report-data"])
        except ValueError as error:
            raise FlagError(f"failed to decode report data: {error}") from None
        report = fetch_report(data)
    except HelpRequested:
        sys.stdout.write(usage(PROGRAM, FLAGS))
        return 0
    except (FlagError, ReportError) as error:
        say.line(f"{PROGRAM}: {error}")
        return 1
    if values["binary"]:
        sys.stdout.write(f"{report.hex()}\n")
        return 0
    fields = describe_report(report)
    if values["verbose"]:
        lines = [f"{name:<{_WIDTH}}{value}" for name, value in fields.items()]
        sys.stdout.write("\n".join(lines) + "\n")
    else:
        words = " ".join(f"{name}:{value}" for name, value in fields.items())
        sys.stdout.write(f"{{{words}}}\n")
    return 0
