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
    return _error_class_of_crun(text) or _error_class_of_runc(text)


def _error_class_of_crun(text: str) -> type[GcsError] | None:
    if text.startswith("error opening file") and "/status`: No such file" in text:
        return SystemNotFoundError
    if "is not in `created` or `stopped` state" in text:
        return InvalidStateError
    if text.startswith("cannot open") and "/exec.fifo`: No such file" in text:
        return InvalidStateError  # started before
    if text.startswith("the container") and text.endswith("is not running"):
        return SystemAlreadyStoppedError
    if text.startswith("kill container: No such process"):
        return SystemAlreadyStoppedError
    return None


def _error_class_of_runc(text: str) -> type[GcsError]:
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
