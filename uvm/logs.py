"""The agent's log stream (spec 2.2)."""

import datetime
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

import msgspec

from gcs.protocol.logs import decode_json, format_time

#: The host logs these two as errors: the guest's end is not its own.
_ENDINGS: Final = ("fatal", "panic")
_REST_LIMIT: Final = 1 << 20
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]"]', re.DOTALL)


@dataclass
class LogEntry:
    """An entry.

    Attributes:
        level: trace, debug, info, warning or error.
        message: Its text.
        fields: Everything else; ``vm.time`` is the guest's own time stamp.
        time: When the host received it.
    """

    level: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    time: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def to_json(self) -> bytes:
        """Return the entry as one line of JSON, newline included."""
        document = {
            "time": self.time.isoformat(timespec="microseconds"),
            "level": self.level,
            "msg": self.message,
            **self.fields,
        }
        return msgspec.json.encode(document) + b"\n"

    def to_text(self) -> str:
        """Return the entry as one line for people, without a newline."""
        pairs = " ".join(f"{key}={_plain(value)}" for key, value in self.fields.items())
        stamp = self.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
        return f"{stamp} {self.level:<7} {self.message}{' ' if pairs else ''}{pairs}"


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if text and not re.search(r'[\s"=]', text) else msgspec.json.encode(text).decode()


class LogDecoder:
    """Decodes a stream the way a real host does: after the first error, the rest is one entry."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed = False

    @property
    def failed(self) -> bool:
        """Whether something that is no log entry has come."""
        return self._failed

    def feed(self, data: bytes) -> list[LogEntry]:
        """Take bytes of the stream and return the entries that are complete now."""
        self._buffer += data
        entries: list[LogEntry] = []
        while not self._failed:
            start = _skip_space(self._buffer)
            if start == len(self._buffer):
                self._buffer.clear()
                break
            if self._buffer[start] != ord("{"):
                self._failed = True
                break
            end = _object_end(self._buffer, start)
            if end is None:
                break
            entry = _decode_entry(bytes(self._buffer[start:end]))
            if entry is None:
                self._failed = True
                break
            entries.append(entry)
            del self._buffer[:end]
        if self._failed and len(self._buffer) > _REST_LIMIT:
            del self._buffer[_REST_LIMIT:]
        return entries

    def finish(self) -> list[LogEntry]:
        """Return what the end of the stream leaves: nothing, or one entry with the rest."""
        rest = bytes(self._buffer).strip()
        self._buffer.clear()
        if not rest:
            return []
        self._failed = True
        return [LogEntry("error", "gcs terminated", {"stderr": rest.decode("utf-8", "replace")})]


def decode_all(chunks: Iterable[bytes]) -> list[LogEntry]:
    """Decode a whole stream."""
    decoder = LogDecoder()
    entries = [entry for chunk in chunks for entry in decoder.feed(chunk)]
    return entries + decoder.finish()


def open_raw_log() -> BinaryIO | None:
    """Open a new file for the bytes of one log connection, for whoever looks into a bad stream.

    Returns:
        The file, in the directory that the environment variable ``UVM_RAW_LOG_DIR`` names;
        ``None`` when it names none.
    """
    directory = os.environ.get("UVM_RAW_LOG_DIR")
    if not directory:
        return None
    return open(os.path.join(directory, f"{uuid.uuid4()}.log"), "xb", buffering=0)


def _skip_space(buffer: bytearray) -> int:
    position = 0
    while position < len(buffer) and buffer[position] in b" \t\r\n":
        position += 1
    return position


def _object_end(buffer: bytearray, start: int) -> int | None:
    """Return the index behind the object that begins at ``start``, or ``None``: not all there."""
    depth = 0
    for token in _TOKEN.finditer(buffer, start):
        text = token.group()
        if text == b'"':
            return None  # a string that has no end yet
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def _decode_entry(document: bytes) -> LogEntry | None:
    try:
        entry = decode_json(document)
    except (ValueError, msgspec.DecodeError):
        return None
    fields = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in entry.fields.items()
    }
    if entry.time:
        fields["vm.time"] = format_time(entry.time)
    level = "error" if entry.level in _ENDINGS else entry.level
    return LogEntry(level, entry.message, fields)
