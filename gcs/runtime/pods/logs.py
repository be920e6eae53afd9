"""Copies of a container's output in the logs directory of its pod (spec 4.2, no. 6 and 10)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from gcs.linux.beneath import open_beneath
from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.pods.containment import components, make_beneath

if TYPE_CHECKING:
    from gcs.runtime.pods.edit import Edit
    from gcs.runtime.pods.sandbox_root import SandboxRoot

_WHAT: Final = "tee log"


def edit_logs(edit: Edit) -> None:
    """Mount the logs directory into the container, and make the directories of its log file.

    Raises:
        GcsError: The path of the log leads out of the logs directory, or is that directory.
    """
    annotations = edit.annotations
    if annotations.tee_log_directory_mount:
        edit.mounts.append(
            {
                "destination": annotations.tee_log_directory_mount,
                "type": "bind",
                "source": edit.root.logs,
                "options": ["bind"],
            }
        )
    if annotations.tee_log_path:
        parent = "/".join(_names(annotations.tee_log_path)[:-1])
        make_beneath(edit.root.logs, parent, edit.undo, _WHAT)


def open_log(root: SandboxRoot, path: str) -> int:
    """Open the log file of a container for appending; blocking.

    Containers may have the logs directory mounted: a link that one of them has put there leads
    nowhere, and a pipe is refused.

    Args:
        root: Root directory of its pod.
        path: Value of the annotation.

    Returns:
        A descriptor, owned by the caller.

    Raises:
        GcsError: It can't be opened, or isn't a file.
    """
    names = _names(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK
    try:
        directory = os.open(root.logs, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            descriptor = open_beneath(directory, "/".join(names), flags, 0o666)
        finally:
            os.close(directory)
    except OSError as error:
        raise GcsError(f"{_WHAT} {path!r} below {root.logs}: {error_text(error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise GcsError(f"{_WHAT} {path!r} below {root.logs} is not a file")
    return descriptor


def _names(path: str) -> list[str]:
    names = components(path, _WHAT)
    if not names:
        raise GcsError(f"{_WHAT} {path!r} names no file")
    return names
