"""Texts of container runtimes and their HRESULTs (spec 4.8)."""

from __future__ import annotations

import pytest

from gcs.protocol.hresult import HResult
from gcs.runtime.runtime_errors import runtime_error


@pytest.mark.parametrize(
    ("text", "hresult"),
    [
        ("container does not exist", HResult.SYSTEM_NOT_FOUND),
        ('container "x" does not exist', HResult.SYSTEM_NOT_FOUND),
        ("rootfs (/x) does not exist", HResult.FAIL),
        ("container with id exists: x", HResult.SYSTEM_ALREADY_EXISTS),
        ("container with given ID already exists", HResult.SYSTEM_ALREADY_EXISTS),
        ("container `x` already exists", HResult.SYSTEM_ALREADY_EXISTS),
        ("file already exists", HResult.FAIL),
        ("invalid id format: ''", HResult.INVALID_ARGUMENT),
        ("invalid container ID format", HResult.INVALID_ARGUMENT),
        (
            "cannot delete container x that is not stopped: running",
            HResult.INVALID_STATE,
        ),
        ("container still running", HResult.INVALID_STATE),
        ("container not running", HResult.SYSTEM_ALREADY_STOPPED),
        (
            "error opening file `/run/crun/x/status`: No such file or directory",
            HResult.SYSTEM_NOT_FOUND,
        ),
        ("the container `x` is not in `created` or `stopped` state", HResult.INVALID_STATE),
        (
            "cannot open `/run/crun/x/exec.fifo`: No such file or directory",
            HResult.INVALID_STATE,
        ),
        ("the container `x` is not running", HResult.SYSTEM_ALREADY_STOPPED),
        ("kill container: No such process", HResult.SYSTEM_ALREADY_STOPPED),
        ("open executable: No such file or directory", HResult.FAIL),
        ("unable to start container process: no such file", HResult.FAIL),
    ],
)
def test_texts(text: str, hresult: int) -> None:
    error = runtime_error("runc start", text)
    assert error.hresult == hresult
    assert error.message == f"runc start: {text}"
