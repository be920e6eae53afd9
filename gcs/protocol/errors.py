"""Errors that know the HRESULT a host is to be told (spec 1.9).

Whatever else escapes a request handler is answered as ``HResult.FAIL``.
"""

from gcs.protocol.hresult import HResult, describe


class GcsError(Exception):
    """An error with the HRESULT that goes to the host.

    Args:
        message: Names the object and the cause, and what to do where a person can act.
        hresult: The result code; by default the one of the class.

    Attributes:
        hresult: Unsigned HRESULT.
        module: The component the host logs as the origin (``ModuleName`` of an error record).
    """

    default_hresult: HResult = HResult.FAIL
    module: str = "gcs"

    def __init__(self, message: str, *, hresult: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hresult: int = self.default_hresult if hresult is None else hresult

    def __str__(self) -> str:
        return self.message


class NotImplementedByAgentError(GcsError):
    """No handler for this message at the negotiated version."""

    default_hresult = HResult.NOT_IMPLEMENTED


class NotFoundError(GcsError):
    """A process, or a network namespace, that is not known (any more)."""

    default_hresult = HResult.NOT_FOUND


class InvalidArgumentError(GcsError):
    """A value outside its domain, such as a malformed container id."""

    default_hresult = HResult.INVALID_ARGUMENT


class WaitTimeoutError(GcsError):
    """The time limit of a WaitForProcess request passed."""

    default_hresult = HResult.TIMEOUT


class UnsupportedProtocolVersionError(GcsError):
    """The version ranges of host and agent do not overlap."""

    default_hresult = HResult.UNSUPPORTED_PROTOCOL_VERSION


class InvalidJsonError(GcsError):
    """A body that is not JSON, or JSON of the wrong shape."""

    default_hresult = HResult.INVALID_JSON


class SystemNotFoundError(GcsError):
    """A container id nobody created."""

    default_hresult = HResult.SYSTEM_NOT_FOUND


class SystemAlreadyExistsError(GcsError):
    """A container id that is taken."""

    default_hresult = HResult.SYSTEM_ALREADY_EXISTS


class SystemAlreadyStoppedError(GcsError):
    """An operation that needs a running container, on one that ended."""

    default_hresult = HResult.SYSTEM_ALREADY_STOPPED


class InvalidStateError(GcsError):
    """An operation the state of the container does not allow."""

    default_hresult = HResult.INVALID_STATE


class FramingError(GcsError):
    """A byte stream that is no sequence of frames: the connection can't be used any more."""


class RemoteError(GcsError):
    """An error answer of the other side, as the host library raises it.

    Args:
        message: ``ErrorMessage`` of the response.
        hresult: Unsigned HRESULT of the response.
    """

    def __str__(self) -> str:
        return f"{self.message or 'request failed'} [HRESULT {describe(self.hresult)}]"


def hresult_of(error: BaseException) -> int:
    """Return the outermost HRESULT in the chain of causes of an error, else ``FAIL``."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, GcsError):
            return current.hresult
        seen.add(id(current))
        current = current.__cause__
    return HResult.FAIL


def error_text(error: BaseException) -> str:
    """Return a message for the host: never empty, always encodable as UTF-8."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, GcsError):
        text = text.removeprefix(f"[Errno {error.errno}] ")
    elif not isinstance(error, GcsError):
        text = f"{type(error).__name__}: {text}" if str(error) else text
    return text.encode("utf-8", "replace").decode("utf-8")
