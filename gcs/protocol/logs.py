"""The form of log entries on the log port (spec 2.2), shared with the host tool.

A host reads a stream of JSON objects.  The first one that is none, or whose ``level``, ``msg`` or
``time`` is not what it expects, ends its log parsing for good: entries are made here only.
"""

import time
from typing import Any, Final

import msgspec

from gcs.protocol.trace import SERVER, Span

#: Level names a host knows, in order of severity.
LEVELS: Final = ("trace", "debug", "info", "warning", "error", "fatal", "panic")
#: Severity of "trace" in :mod:`logging`, which has no name for it.
TRACE: Final = 5
#: Longest text of one field in an entry, in characters.
MAX_TEXT: Final = 32 * 1024

_RESERVED: Final = frozenset({"level", "msg", "time"})
_BARE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")


class LogEntry(msgspec.Struct, kw_only=True):
    """One log entry.

    Attributes:
        level: One of :data:`LEVELS`.
        message: What happened.
        time: Nanoseconds since the epoch; 0 when the entry carried none.
        fields: Everything else, flat.
    """

    level: str = "info"
    message: str = ""
    time: int = 0
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


def format_time(nanoseconds: int) -> str:
    """Return a time since the epoch in RFC 3339, UTC, with nine decimals."""
    global _second  # noqa: PLW0603 - most calls of one second follow each other
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    known, text = _second
    if known != seconds:
        date = time.gmtime(seconds)
        text = (
            f"{date.tm_year:04}-{date.tm_mon:02}-{date.tm_mday:02}"
            f"T{date.tm_hour:02}:{date.tm_min:02}:{date.tm_sec:02}"
        )
        _second = (seconds, text)
    return f"{text}.{fraction:09}Z"


_second: tuple[int, str] = (-1, "")


def format_duration(nanoseconds: int) -> str:
    """Return a length of time, not negative, in Go's form: ``1h2m3.5s``, ``1.25ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1000), ("ms", 1_000_000)):
        if nanoseconds < size * 1000:
            return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(number: int, divisor: int) -> str:
    """Return a quotient by a power of ten, exactly and without needless zeros."""
    whole, rest = divmod(number, divisor)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:0{len(str(divisor)) - 1}}".rstrip("0")


def span_entry(span: Span) -> LogEntry:
    """Return the entry for a span that has ended (spec 2.2)."""
    fields = {key: value for key, value in span.attributes.items() if value is not None}
    fields["name"] = span.name
    fields["traceID"] = span.context.trace_id
    fields["spanID"] = span.context.span_id
    if span.parent_id:
        fields["parentSpanID"] = span.parent_id
    fields["startTime"] = format_time(span.start)
    fields["endTime"] = format_time(span.start + span.duration)
    fields["duration"] = format_duration(span.duration)
    if span.kind:
        fields["spanKind"] = span.kind
    if span.context.state and span.kind == SERVER:
        fields["traceState"] = span.context.state
    if span.error:
        fields.setdefault("error", span.error)
        fields.setdefault("errorCode", span.error_code)
    level = "error" if span.error else "info"
    return LogEntry(level=level, message="Span", time=span.start, fields=fields)


def encode_json(entry: LogEntry) -> bytes:
    """Return an entry as one line of JSON, whatever objects its fields hold."""
    document = _document(entry)
    try:
        return _encoder.encode(document) + b"\n"
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Half a surrogate pair, a number beyond 64 bits, a key that is no string...
        return _encoder.encode({_text(k): _text(v) for k, v in document.items()}) + b"\n"


def encode_text(entry: LogEntry) -> bytes:
    """Return an entry as one line of ``key=value`` pairs."""
    pairs = (f"{_bare(key)}={_bare(value)}" for key, value in _document(entry).items())
    return " ".join(pairs).encode("utf-8", "backslashreplace") + b"\n"


def decode_json(line: bytes | str) -> LogEntry:
    """Decode one entry by the rules of a host.

    Raises:
        ValueError: A host would stop parsing here: no JSON object, an unknown level, or a value
            of the wrong type.
    """
    document = msgspec.json.decode(line, type=dict[str, Any])
    level = document.pop("level", "info")
    message = document.pop("msg", "")
    stamp = document.pop("time", "")
    if level == "warn":
        level = "warning"
    if level not in LEVELS:
        raise ValueError(f"log entry has the unknown level {level!r}")
    if not isinstance(message, str) or not isinstance(stamp, str):
        raise ValueError("log entry has a msg or a time that is no text")
    return LogEntry(level=level, message=message, time=_parse_time(stamp), fields=document)


def _parse_time(text: str) -> int:
    if not text:
        return 0
    from datetime import datetime

    whole, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    moment = datetime.fromisoformat(whole + rest[len(digits) :] if dot else text)
    return int(moment.timestamp()) * 1_000_000_000 + int(digits[:9].ljust(9, "0"))


def _document(entry: LogEntry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "time": format_time(entry.time),
        "level": entry.level,
        "msg": _cut(entry.message),
    }
    for key, value in entry.fields.items():
        name = f"fields.{key}" if key in _RESERVED else key
        document[name] = _cut(value) if isinstance(value, str) else value
    return document


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT} characters cut)"


def _text(value: object) -> str:
    return _cut(str(value)).encode("utf-8", "backslashreplace").decode()


def _bare(value: object) -> str:
    text = value if isinstance(value, str) else _text(value)
    if text and _BARE.issuperset(text):
        return text
    return msgspec.json.encode(_text(text)).decode()


_encoder = msgspec.json.Encoder(enc_hook=_text)
