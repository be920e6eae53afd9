"""Requests and specifications as text for the log, without what may be secret (spec 2.2).

Environments and annotations are replaced.  What can't be read is not shown at all.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gcs.protocol.frame import MessageType

REPLACEMENT: Final = "<scrubbed>"
_MAP: Final = {REPLACEMENT: REPLACEMENT}
_LIST: Final = [REPLACEMENT]

_enabled = True


def set_enabled(enabled: bool) -> None:
    """Switch scrubbing on, as it is at first, or off (flag ``-scrub-logs``)."""
    global _enabled  # noqa: PLW0603 - one for the process, as the log
    _enabled = enabled


def request_text(message_type: int, body: bytes | bytearray) -> str:
    """Return the body of a request."""
    scrub = _OF_REQUEST.get(message_type)
    if scrub is None or not _enabled:
        return bytes(body).decode("utf-8", "backslashreplace")
    return _scrubbed(body, scrub)


def specification_text(document: bytes) -> str:
    """Return an OCI specification."""
    if not _enabled:
        return document.decode("utf-8", "backslashreplace")
    return _scrubbed(document, _scrub_specification)


def _scrubbed(text: str | bytes | bytearray, scrub: Callable[[dict[str, Any]], None]) -> str:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return f"<{len(text)} bytes that are no JSON>"
    if not isinstance(document, dict):
        return f"<{len(text)} bytes that are no JSON object>"
    scrub(document)
    return msgspec.json.encode(document).decode()


def _scrub_create(document: dict[str, Any]) -> None:
    _replace_text(document, "containerconfig", _scrub_settings)


def _scrub_settings(settings: dict[str, Any]) -> None:
    for specification in _objects(settings, "ociSpecification"):
        _scrub_specification(specification)


def _scrub_specification(specification: dict[str, Any]) -> None:
    _replace(specification, "annotations", _MAP)
    for process in _objects(specification, "process"):
        _replace(process, "env", _LIST)


def _scrub_execute(document: dict[str, Any]) -> None:
    for settings in _objects(document, "settings"):
        _replace_text(settings, "processparameters", _scrub_parameters)


def _scrub_parameters(parameters: dict[str, Any]) -> None:
    _replace(parameters, "environment", _MAP)
    for process in _objects(parameters, "ociprocess"):
        _replace(process, "env", _LIST)
    _scrub_settings(parameters)


def _keys(document: dict[str, Any], name: str) -> list[str]:
    """Return the keys that stand for a name: on the wire case does not matter."""
    return [key for key in document if key.lower() == name.lower()]


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [document[key] for key in _keys(document, name) if isinstance(document[key], dict)]


def _replace(document: dict[str, Any], name: str, replacement: object) -> None:
    for key in _keys(document, name):
        document[key] = replacement


def _replace_text(
    document: dict[str, Any], name: str, scrub: Callable[[dict[str, Any]], None]
) -> None:
    """Scrub a document inside a string."""
    for key in _keys(document, name):
        if isinstance(document[key], str):
            document[key] = _scrubbed(document[key], scrub)
        else:
            document[key] = REPLACEMENT


_OF_REQUEST: Final[dict[int, Callable[[dict[str, Any]], None]]] = {
    MessageType.CREATE: _scrub_create,
    MessageType.EXECUTE_PROCESS: _scrub_execute,
}
