"""The command line of the agent, `/bin/gcs` (spec 7.3)."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from typing import TYPE_CHECKING

from gcs.agent import Agent, Options
from gcs.flags import Flag, FlagError, HelpRequested, parse, usage
from gcs.init.launch import ensure_standard_descriptors
from gcs.logs import LOG_FORMATS, LOG_LEVELS, set_up
from gcs.policy.stance import STANCES
from gcs.protocol import scrub
from gcs.protocol.logs import LogEntry, encode_json
from gcs.transport import parse_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

PROGRAM = "gcs"
FAILURE_STATUS = 1
USAGE_STATUS = 2
MEBIBYTE = 1024 * 1024


def _one_of(choices: Container[str]) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"choose one of {choices}")

    return check


def _transport(text: str) -> None:
    parse_transport(text)


FLAGS = (
    Flag("loglevel", "debug", "least severe entries to log", _one_of(tuple(LOG_LEVELS))),
    Flag("logfile", "", "file for the log (default: standard error)"),
    Flag("log-format", "text", "form of the log", _one_of(tuple(LOG_FORMATS))),
    Flag("scrub-logs", True, "leave what may be secret out of logged requests"),
    Flag("core-dump-location", "", "pattern for /proc/sys/kernel/core_pattern"),
    Flag("kmsgLogLevel", 4, "least severe kernel messages to log, 0 to 7"),
    Flag("use-inouterr", False, "serve the bridge on standard input and output, until EOF"),
    Flag("v4", False, "answer requests; without it every one is refused"),
    Flag("root-mem-reserve-bytes", 75 * MEBIBYTE, "memory that containers can't use"),
    Flag("gcs-mem-limit-bytes", 50 * MEBIBYTE, "memory of the agent worth a warning"),
    Flag("disable-time-sync", False, "do not follow the host's clock"),
    Flag(
        "initial-policy-stance",
        "allow",
        "what is allowed until a security policy is set",
        _one_of(tuple(STANCES)),
    ),
    Flag(
        "runtime",
        "",
        "container runtime: runc or crun, or the path of one (default: what there is)",
    ),
    Flag("transport", "vsock", "how to reach the host: vsock or unix:PREFIX", _transport),
    Flag("reconnect-hold-ms", 10_000, "see gcs.bridge.outbox, in milliseconds", hidden=True),
)


def main(argv: list[str] | None = None) -> int:
    """Run the agent.

    Args:
        argv: Arguments without the program name; by default those of the process.

    Returns:
        The exit status: 0 at an orderly end, 1 when the agent failed, 2 for a wrong command line.
    """
    # Imports make no garbage worth looking for; the agent switches it on again.
    gc.disable()
    ensure_standard_descriptors()
    argv = sys.argv[1:] if argv is None else argv
    try:
        values, _ = parse(FLAGS, argv)
    except HelpRequested:
        sys.stderr.write(usage(PROGRAM, FLAGS))
        return 0
    except FlagError as error:
        _complain(argv, str(error), usage(PROGRAM, FLAGS))
        return USAGE_STATUS
    options = Options(
        transport=parse_transport(values["transport"]),
        runtime=values["runtime"],
        policy=STANCES[values["initial-policy-stance"]](),
        answer_requests=values["v4"],
        use_standard_streams=values["use-inouterr"],
        core_pattern=values["core-dump-location"],
        hold_seconds=values["reconnect-hold-ms"] / 1000,
        memory_reserve=values["root-mem-reserve-bytes"],
        memory_warning=values["gcs-mem-limit-bytes"],
        kernel_log_priority=values["kmsgLogLevel"],
        synchronise_time=not values["disable-time-sync"],
    )
    scrub.set_enabled(values["scrub-logs"])
    try:
        logs = set_up(
            level=values["loglevel"],
            form=values["log-format"],
            path=values["logfile"],
            muted=values["initial-policy-stance"] == "deny",
        )
    except OSError as error:
        _complain(argv, f"cannot open the log file {values['logfile']}: {error.strerror}")
        return FAILURE_STATUS
    # The agent handles it. From asyncio's own handler, which would be found in its place, `signal`
    # would make a text that shows a task, and that takes an eighth of the start.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return asyncio.run(Agent(options, logs).run())
    except Exception:  # noqa: BLE001 - the last words must be a log entry
        sys.excepthook(*sys.exc_info())
        return FAILURE_STATUS
    finally:
        logs.close()


def _complain(argv: Sequence[str], message: str, usage_text: str = "") -> None:
    """Say what is wrong when there is no log yet.

    A host that asks for a JSON log reads nothing else from standard error (spec 2.2); whether it
    asks can only be guessed from arguments that can't be parsed.
    """
    formats = [word.lstrip("-") for word in argv]
    wants_json = "log-format=json" in formats or "log-format json" in " ".join(formats)
    if not wants_json:
        sys.stderr.write(f"{message}\n{usage_text}")
        return
    fields = {"usage": usage_text} if usage_text else {}
    entry = LogEntry(level="fatal", message=message, time=time.time_ns(), fields=fields)
    sys.stderr.write(encode_json(entry).decode())
