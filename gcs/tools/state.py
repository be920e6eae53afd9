"""The state of a container, as an OCI runtime writes it to the standard input of a hook."""

from __future__ import annotations

# The C half of `json`: the Python half imports `re`, and is only needed for its error.
from _json import make_scanner

_BLANK = " \t\r\n"


class StateError(Exception):
    """What the runtime wrote is no state; the text says why."""


class State:
    """What hooks are told of a container: id, pid in the runtime's PID namespace, annotations."""

    __slots__ = ("annotations", "id", "pid")

    def __init__(self, container_id: str, pid: int, annotations: dict[str, str]) -> None:
        self.id = container_id
        self.pid = pid
        self.annotations = annotations


class _Context:
    """How the scanner is to read: as `json.loads` does."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def read_state(data: bytes) -> State:
    """Read a state; what is missing is empty, what else there is does not count.

    Raises StateError.
    """
    document = _decode(data)
    if not isinstance(document, dict):
        raise StateError("the container's state is no JSON object")
    container_id, pid = document.get("id") or "", document.get("pid") or 0
    annotations = document.get("annotations") or {}
    if not isinstance(container_id, str) or not isinstance(pid, int):
        raise StateError("the container's state has an id or a pid of the wrong type")
    if not isinstance(annotations, dict) or not all(
        isinstance(value, str) for value in annotations.values()
    ):
        raise StateError("the container's state has annotations that are no texts")
    return State(container_id, pid, annotations)


def _decode(data: bytes) -> object:
    try:
        text = data.decode()
        start = len(text) - len(text.lstrip(_BLANK))
        document: object = make_scanner(_Context)(text, start)[0]  # type: ignore[arg-type]  # any such object
    except (ValueError, RecursionError) as error:
        raise StateError(f"the container's state is no JSON: {error}") from error
    except StopIteration:
        raise StateError("the container's state is no JSON") from None
    return document
