"""The agent's log: entries in the host's form, and nothing else, on one file descriptor (spec 2.2).

Entries are written by a thread of their own: the descriptor is often a socket whose reader may
stall, it is shared with other programs (so it can't be made non-blocking), and the loop must not
wait.  What doesn't fit into a bounded queue is dropped and counted; when the reader is gone,
everything is dropped and the agent goes on.

File descriptors 1 and 2 are redirected into a pipe the loop reads, so that output of libraries and
of careless children becomes entries too.  When the interpreter crashes inside C code nobody is left
to read the pipe but the agent's supervisor (`gcs.init.supervisor`).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import sys
import threading
import time
from _queue import Empty, SimpleQueue  # `queue` has more kinds of queues, all made when imported
from typing import TYPE_CHECKING, Any

from gcs.init import supervisor
from gcs.protocol.logs import LEVELS, TRACE, LogEntry, encode_json, encode_text, span_entry
from gcs.protocol.trace import current, set_exporter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from gcs.protocol.trace import Span

#: Names of ``-loglevel``.
LOG_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL + 10,
}
#: Names of ``-log-format``.
LOG_FORMATS: dict[str, Callable[[LogEntry], bytes]] = {"text": encode_text, "json": encode_json}

QUEUE_BYTES = 1024 * 1024
_WRITE_BYTES = 64 * 1024
_MAX_STACK = 16 * 1024
_LINE_BYTES = 16 * 1024

logger = logging.getLogger(__name__)
_root = logging.getLogger()


class LogWriter:
    """Writes lines to a file descriptor, from a thread, never keeping its caller waiting.

    Args:
        descriptor: Where to; owned by the writer from now on.
        capacity: How many bytes may wait.

    Attributes:
        descriptor: See there.
    """

    def __init__(self, descriptor: int, capacity: int = QUEUE_BYTES) -> None:
        self.descriptor = descriptor
        self._capacity = capacity
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # Each counter has one writer only (producers hold the handler's lock), so no lock here.
        self._accepted = 0
        self._done = 0
        self._broken = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> bool:
        """Queue a line; return False when it was dropped because too much is waiting."""
        if self._accepted - self._done + len(line) > self._capacity:
            return False
        self._accepted += len(line)
        self._queue.put(line)
        return True

    def close(self, seconds: float = 1.0) -> None:
        """Write out what waits, as far as that works within the time."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        ended = False
        while not ended:
            chunk = bytearray()
            try:
                line = self._queue.get()
                while line is not None:
                    chunk += line
                    if len(chunk) >= _WRITE_BYTES:
                        break
                    line = self._queue.get_nowait()
                else:
                    ended = True
            except Empty:
                pass
            if not self._broken:
                self._write(chunk)
            self._done += len(chunk)

    def _write(self, chunk: bytearray) -> None:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:
                # Somebody else made the shared description non-blocking.
                select.select([], [self.descriptor], [])
            except OSError:
                self._broken = True
                return


class EntryHandler(logging.Handler):
    """Turns records into entries and hands them to a writer.

    Fields of an entry come from ``extra``: ``log.info("created", extra={"cid": id})``, or
    ``extra={"fields": {…}}`` for names that ``logging`` reserves.

    Args:
        writer: Where entries go.
        encode: One of :data:`LOG_FORMATS`.

    Attributes:
        muted: Discard everything, until a policy allows logging.
    """

    def __init__(self, writer: LogWriter, encode: Callable[[LogEntry], bytes]) -> None:
        super().__init__()
        self.muted = False
        self._writer = writer
        self._encode = encode
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; what can't be formatted becomes an entry that says so."""
        if self.muted:
            return
        try:
            line = self._encode(entry_of(record))
        except Exception as error:  # noqa: BLE001 - a log call must never fail its caller
            text = f"malformed log call in {record.pathname}:{record.lineno}: {error!r}"
            line = self._encode(self._entry(text))
        self._write(line)

    def export(self, span: Span) -> None:
        """Queue a span that has ended."""
        severity = logging.ERROR if span.error else logging.INFO
        if self.muted or not _root.isEnabledFor(severity):
            return
        line = self._encode(span_entry(span))
        self.acquire()
        try:
            self._write(line)
        finally:
            self.release()

    def _write(self, line: bytes) -> None:
        if self._dropped:
            lost = self._entry(f"{self._dropped} log entries were dropped: nobody reads the log")
            if self._writer.write(self._encode(lost)):
                self._dropped = 0
        if not self._writer.write(line):
            self._dropped += 1

    def _entry(self, message: str) -> LogEntry:
        return LogEntry(level="warning", message=message, time=time.time_ns())


#: Attributes every record has; all others are fields.
_RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "fields",
    "message",
    "asctime",
    "taskName",
}


def entry_of(record: logging.LogRecord) -> LogEntry:
    """Return the entry for a record, with ``error`` and ``stack`` for an exception.

    Called where the record was made: the ids of the span there are added.
    """
    fields: dict[str, Any] = {
        key: value for key, value in record.__dict__.items() if key not in _RECORD_ATTRIBUTES
    }
    fields.update(record.__dict__.get("fields") or {})
    span = current()
    if span is not None:
        fields.setdefault("traceID", span.trace_id)
        fields.setdefault("spanID", span.span_id)
    if record.exc_info and record.exc_info[1] is not None:
        from traceback import format_exception

        error = record.exc_info[1]
        fields.setdefault("error", f"{type(error).__name__}: {error}")
        fields["stack"] = "".join(format_exception(error))[-_MAX_STACK:]
    if record.stack_info:
        fields["stack"] = record.stack_info[-_MAX_STACK:]
    return LogEntry(
        level=_level_name(record.levelno),
        message=record.getMessage(),
        time=int(record.created * 1_000_000) * 1000,
        fields=fields,
    )


def _level_name(number: int) -> str:
    index = 0 if number < logging.DEBUG else min(number // 10, len(LEVELS) - 1)
    return LEVELS[index]


class LineLogger:
    """A text stream, in place of ``sys.stdout`` or ``sys.stderr``, that logs each line."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = ""

    def write(self, text: str) -> int:
        """Log the complete lines; keep the rest for later."""
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > _LINE_BYTES:
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            if line.strip():
                logger.info("%s", line, extra={"stream": self._name})
        return len(text)

    def flush(self) -> None:
        """Log an unfinished line."""
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        """Return False: never a terminal."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True


class Logs:
    """The log of this process; made once, by :func:`set_up`.

    Attributes:
        handler: Makes the entries.
        descriptor: Where they go.
    """

    def __init__(self, handler: EntryHandler, writer: LogWriter, form: str) -> None:
        self._form = form
        self.handler = handler
        self.descriptor = writer.descriptor
        self._writer = writer
        self._captured = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._output = LineLogger("output")

    def capture_output(self, loop: asyncio.AbstractEventLoop) -> None:
        """Redirect file descriptors 1 and 2 into the log, read by the loop.

        The log's own descriptor must be a duplicate by now; children that are given no stdout
        inherit these two, and are logged as well.  A crash in C code writes a traceback there.
        """
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        self._captured = reader
        self._loop = loop
        # A muted log has its reasons, and then nobody may tell for the agent either.
        if not self.handler.muted:
            supervisor.leave(self.descriptor, reader, self._form)
        faulthandler.enable(2)
        loop.add_reader(reader, self._read_output)

    def close(self) -> None:
        """Write out everything, within a second; the loop must not run any more."""
        if self._loop is not None:
            self._read_output()
            self._output.flush()
        self._writer.close()

    def _read_output(self) -> None:
        try:
            data = os.read(self._captured, _LINE_BYTES)
        except BlockingIOError:
            return
        if not data and self._loop is not None:
            self._loop.remove_reader(self._captured)
        self._output.write(data.decode("utf-8", "backslashreplace"))


def set_up(*, level: str, form: str, path: str = "", muted: bool = False) -> Logs:
    """Send every log entry, print, warning and uncaught error of this process to one place.

    Args:
        level: Key of :data:`LOG_LEVELS`; entries below it are left out.
        form: Key of :data:`LOG_FORMATS`.
        path: File to create or truncate; empty means file descriptor 2 as it is now.
        muted: Discard everything until ``handler.muted`` is reset.

    Raises:
        OSError: The file can't be opened.
    """
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    else:
        descriptor = os.dup(2)  # not inherited by children
    writer = LogWriter(descriptor)
    handler = EntryHandler(writer, LOG_FORMATS[form])
    handler.muted = muted
    _root.handlers[:] = [handler]
    _root.setLevel(LOG_LEVELS[level])
    set_exporter(handler.export)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # or logging itself would print
    logging.logProcesses = logging.logMultiprocessing = False
    logging.addLevelName(TRACE, "TRACE")
    logging.captureWarnings(True)
    sys.stdout, sys.stderr = LineLogger("stdout"), LineLogger("stderr")
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread
    return Logs(handler, writer, form)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("the agent failed", exc_info=(kind, error, trace))


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    info = (type(error), error, unraisable.exc_traceback) if error is not None else None
    text = unraisable.err_msg or "exception ignored in"
    logger.error("%s %r", text, unraisable.object, exc_info=info)


def _log_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    info = (type(error), error, arguments.exc_traceback) if error is not None else None
    name = arguments.thread.name if arguments.thread is not None else "?"
    logger.error("thread %s failed", name, exc_info=info)
