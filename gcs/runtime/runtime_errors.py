"""Texts of container runtimes, turned into errors with an HRESULT (spec 4.8)."""

from __future__ import annotations

from gcs.protocol.errors import (
    GcsError,
    InvalidArgumentError,
    InvalidStateError,
    SystemAlreadyExistsError,
    SystemAlreadyStoppedError,
    SystemNotFoundError,
)


def runtime_error(what: str, text: str) -> GcsError:
    """Return the error for a failed call.

    Args:
        what: Which call, such as ``runc start``.
        text: What the runtime says; runc's and crun's wordings are known.
    """
    return _error_class(text)(f"{what}: {text}")


def _error_class(text: str) -> type[GcsError]:
    if text.startswith("container") and text.endswith("does not exist"):
        return SystemNotFoundError
    if "container with id exists" in text or ("already exists" in text and "container" in text):
        return SystemAlreadyExistsError
    if "invalid id format" in text or "invalid container ID format" in text:
        return InvalidArgumentError
    if "container" in text and "that is not stopped" in text:
        return InvalidStateError
    if "container still running" in text:
        return InvalidStateError
    if "container not running" in text:
        return SystemAlreadyStoppedError
    return GcsError
