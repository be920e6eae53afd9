r"""What a helper program has to say, on standard error.

The runtime quotes it when a hook fails, and a host when a process of the VM does.  The form is that
of the reference's log: `time="…" level=error msg="…" field="…"`, one line an entry.
"""

from __future__ import annotations

import os
import time

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def line(text: str) -> None:
    """Write a line as it is; nothing happens when there is nobody to read it."""
    data = memoryview(f"{text}\n".encode(errors="surrogateescape"))
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:
            return


def entry(level: str, message: str, **fields: str) -> None:
    """Write a log entry of a level such as `error`."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    words = {"time": now, "level": level, "msg": message, **fields}
    line(" ".join(f"{name}={_value(text)}" for name, text in words.items()))


def error_text(error: OSError) -> str:
    """Return what an error is about, and the reason."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _value(text: str) -> str:
    if text and _BARE.issuperset(text):
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """Return a text in quotation marks, with what can't be printed escaped as Go does."""
    return '"' + "".join(map(_character, text)) + '"'


def _character(character: str) -> str:
    escape = _ESCAPES.get(character)
    if escape is None and not character.isprintable():
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
            return f"\\x{code - 0xDC00:02x}"
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return escape or character
