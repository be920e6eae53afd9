"""A request on its way through the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gcs.bridge.tracing import request_span
from gcs.protocol.decode import convert, decode_any
from gcs.protocol.frame import MessageType, type_name
from gcs.protocol.message import UVM_ID, MessageBase
from gcs.protocol.trace import remote_parent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gcs.bridge.services import Services
    from gcs.protocol.frame import Header
    from gcs.protocol.responses import Response
    from gcs.protocol.trace import SpanContext

T = TypeVar("T")

#: Requests about one process that runs, or ran.
_ABOUT_PROCESS = frozenset(
    {MessageType.WAIT_FOR_PROCESS, MessageType.SIGNAL_PROCESS, MessageType.RESIZE_CONSOLE}
)


class Request:
    """A frame from the host, its body read as far as all requests are alike.

    A body that can't be read is no error yet: some requests don't need theirs (spec 1.4).

    Attributes:
        type: Message identifier.
        id: Sequence number.
        container_id: The target, as far as the body could be read.
        activity_id: The one to echo, or ``None``.
        attributes: What its handler tells its own span about it (spec appendix C).
        span: From its arrival to its response.
        when_answered: Called once, after the response was queued or given up.
    """

    __slots__ = (
        "_document",
        "_error",
        "activity_id",
        "attributes",
        "container_id",
        "id",
        "span",
        "type",
        "when_answered",
    )

    def __init__(self, header: Header, body: bytes | bytearray) -> None:
        self.type = header.type
        self.id = header.id
        self.container_id = ""
        self.activity_id: str | None = None
        self.attributes: dict[str, object] = {}
        self.when_answered: Callable[[], None] | None = None
        self._document: Any = None
        self._error: Exception | None = None
        parent: SpanContext | None = None
        try:
            self._document = decode_any(body, self._what)
            base = convert(self._document, MessageBase, self._what)
        except Exception as error:  # noqa: BLE001 - to be answered, whatever it is
            self.activity_id = _find_activity_id(self._document)
            self._document = None
            self._error = _bare(error)
        else:
            self.container_id = base.container_id
            self.activity_id = base.activity_id or None
            if base.trace:
                parent = remote_parent(base.trace)
        self.span = request_span(
            self.type,
            self.id,
            container_id=self.container_id,
            activity_id=self.activity_id,
            parent=parent,
        )

    @property
    def name(self) -> str:
        """A readable name of the message type."""
        return type_name(self.type)

    @property
    def process_id(self) -> int:
        """The process it is about, as far as the body could be read; else 0."""
        if self.type in _ABOUT_PROCESS and isinstance(self._document, dict):
            for key, value in self._document.items():
                if key.lower() == "processid" and isinstance(value, int):
                    return value
        return 0

    @property
    def subject(self) -> str:
        """What a host that sends it knows of: a container, or a process of the VM; or ""."""
        if self.container_id != UVM_ID:
            return self.container_id
        return f"{UVM_ID}/{pid}" if (pid := self.process_id) else ""

    def read(self, target: type[T]) -> T:
        """Return the body as one of :mod:`gcs.protocol.requests`.

        Raises:
            InvalidJsonError: The body is not of that form.
            MemoryError: There is not enough to read it.
        """
        if self._error is not None:
            raise _bare(self._error)
        return convert(self._document, target, self._what)

    @property
    def _what(self) -> str:
        return f"body of {self.name}"


#: Carries out a request; ``None``: there is no answer.
if TYPE_CHECKING:
    Handler = Callable[[Services, Request], Awaitable[Response | None]]


def _bare(error: Exception) -> Exception:
    """Return an equal error without traceback and cause.

    Those refer to the body, maybe 64 MiB, and to the request, which refers to the error.
    """
    return type(error)(*error.args)


def _find_activity_id(document: Any) -> str | None:
    """Return the activity id of a body that is JSON, but wrong somewhere else."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key.lower() == "activityid" and isinstance(value, str):
                return value or None
    return None
