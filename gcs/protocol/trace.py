"""Spans: what was done on behalf of whom, and for how long (spec 2.2, appendix C).

A span is current while its block runs, in the sense of :mod:`contextvars`: spans begun meanwhile,
also in tasks and threads started there, are its children, and log entries carry its ids.
"""

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from os import urandom
from types import TracebackType
from typing import Final, Self

from gcs.protocol.errors import error_text, hresult_of

#: ``spanKind`` of the host's request, and of what is sent unasked.
SERVER: Final = "server"
CLIENT: Final = "client"

_TRACE_ID_LENGTH: Final = 32
_SPAN_ID_LENGTH: Final = 16
_HEX: Final = frozenset("0123456789abcdef")
_MAX_STATE_MEMBERS: Final = 32
_POOL_BYTES: Final = 1024


class SpanContext:
    """What children and log entries need of a span.

    Attributes:
        trace_id: 32 hexadecimal digits, equal for all spans that began with the same one.
        span_id: 16 hexadecimal digits.
        state: W3C ``tracestate`` of the remote parent, as it came.
    """

    __slots__ = ("span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, state: str = "") -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.state = state


_current: ContextVar[SpanContext | None] = ContextVar("span", default=None)


class Span:
    """An operation; measured from its creation to the end of its block, and exported then.

    Args:
        name: Name of the operation (spec appendix C).
        attributes: Texts, numbers and truth values; may be added to until the end.
        kind: ``SERVER``, ``CLIENT`` or nothing.
        parent: By default the span that is current.

    Attributes:
        context: Its ids.
        parent_id: Span id of the parent, or "".
        start: Nanoseconds since the epoch.
        duration: Nanoseconds, known at the end.
        error: Why it failed, or "".
        error_code: HRESULT of the failure, as text.
    """

    __slots__ = (
        "_begun",
        "_token",
        "attributes",
        "context",
        "duration",
        "error",
        "error_code",
        "kind",
        "name",
        "parent_id",
        "start",
    )

    def __init__(
        self,
        name: str,
        attributes: dict[str, object],
        *,
        kind: str = "",
        parent: SpanContext | None = None,
    ) -> None:
        above = parent or _current.get()
        self.name = name
        self.attributes = attributes
        self.kind = kind
        if above is None:
            self.parent_id = ""
            self.context = SpanContext(_random_hex(16), _random_hex(8))
        else:
            self.parent_id = above.span_id
            self.context = SpanContext(above.trace_id, _random_hex(8), above.state)
        self.error = ""
        self.error_code = ""
        self.duration = 0
        self.start = time.time_ns()
        self._begun = time.monotonic_ns()
        self._token: Token[SpanContext | None]

    def fail(self, error: BaseException) -> None:
        """Note that the operation failed."""
        self.error = error_text(error)
        self.error_code = f"0x{hresult_of(error):08x}"

    def __enter__(self) -> Self:
        """Make it the current span."""
        self._token = _current.set(self.context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; an exception that passes is its error."""
        _current.reset(self._token)
        self.duration = time.monotonic_ns() - self._begun
        if error is not None:
            self.fail(error)
        if _export is not None:
            _export(self)


_export: Callable[[Span], None] | None = None


def span(name: str, **attributes: object) -> Span:
    """Return a span for a ``with`` block, child of the current one.

    Args:
        name: Name of the operation (spec appendix C).
        attributes: See :class:`Span`; a value ``None`` is left out when it is exported.
    """
    return Span(name, attributes)


def current() -> SpanContext | None:
    """Return the context of the span in whose block this is called."""
    return _current.get()


def set_exporter(export: Callable[[Span], None] | None) -> None:
    """Say who takes the spans that have ended; it must not raise.  ``None``: nobody."""
    global _export  # noqa: PLW0603 - one for the process, as the log
    _export = export


def remote_parent(carrier: Mapping[str, str]) -> SpanContext | None:
    """Return the span a request belongs to, by its W3C ``traceparent`` and ``tracestate``.

    Returns:
        ``None`` when there is none, or none that is well-formed: tracing fails no request.
    """
    parts = carrier.get("traceparent", "").split("-")
    if len(parts) < 4:
        return None
    version, trace_id, span_id, flags = parts[:4]
    if not (_is_hex(version, 2) and _is_hex(flags, 2)) or version == "ff":
        return None
    if version == "00" and len(parts) != 4:
        return None
    if not _is_id(trace_id, _TRACE_ID_LENGTH) or not _is_id(span_id, _SPAN_ID_LENGTH):
        return None
    return SpanContext(trace_id, span_id, _checked_state(carrier.get("tracestate", "")))


def _checked_state(text: str) -> str:
    """Return a ``tracestate``, or nothing when it is malformed, which spoils the parent not."""
    members = [member for member in (part.strip(" \t") for part in text.split(",")) if member]
    if len(members) > _MAX_STATE_MEMBERS:
        return ""
    if not all(0 < member.find("=") < len(member) - 1 for member in members):
        return ""
    return ",".join(members)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text)


def _is_id(text: str, length: int) -> bool:
    return _is_hex(text, length) and text != "0" * length


_pool = b""


def _random_hex(size: int) -> str:
    """Return random bytes as hexadecimal digits; one system call lasts for many."""
    global _pool  # noqa: PLW0603 - bytes are taken and the rest put back in two steps, see below
    pool = _pool
    if len(pool) < size:
        pool = urandom(_POOL_BYTES)
    # Two threads that get the same bytes here would make equal ids: no more than a blemish.
    _pool = pool[size:]
    return pool[:size].hex()
