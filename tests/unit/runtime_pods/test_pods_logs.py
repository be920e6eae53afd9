"""Copies of the output below the pod's logs directory (spec 4.2, no. 6 and 10)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.logs import edit_logs, open_log
from gcs.runtime.pods.sandbox_directories import make_sandbox_directories
from gcs.runtime.pods.sandbox_root import SandboxRoot
from tests.support.pods import edit_of

if TYPE_CHECKING:
    from pathlib import Path

    from gcs.runtime.pods.edit import Edit

PATH = "io.microsoft.container.lcow.tee-log-path"
MOUNT = "io.microsoft.container.lcow.tee-log-dir-mount"


def edited(root: Path, kind: str, annotations: dict[str, str]) -> Edit:
    edit = edit_of(root, kind, annotations=annotations)
    make_sandbox_directories(edit)
    edit_logs(edit)
    return edit


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
def test_the_directory_is_mounted_and_exists(tmp_path: Path, kind: str) -> None:
    edit = edited(tmp_path, kind, {MOUNT: "/var/log/pod"})
    assert edit.document["mounts"] == [
        {
            "destination": "/var/log/pod",
            "type": "bind",
            "source": f"{tmp_path}/logs",
            "options": ["bind"],
        }
    ]
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize("kind", ["sandbox", "workload", "standalone"])
def test_a_log_is_appended_to(tmp_path: Path, kind: str) -> None:
    edited(tmp_path, kind, {PATH: "deep/er/out.log"})
    assert (tmp_path / "logs/deep/er").stat().st_mode & 0o777 == 0o777
    for text in (b"one", b"two"):
        descriptor = open_log(SandboxRoot(os.fspath(tmp_path)), "deep/er/out.log")
        os.write(descriptor, text)
        os.close(descriptor)
    assert (tmp_path / "logs/deep/er/out.log").read_bytes() == b"onetwo"


@pytest.mark.parametrize("path", ["../x", "a/../../logs/x", ".", "a/.."])
def test_a_log_elsewhere(tmp_path: Path, path: str) -> None:
    with pytest.raises(GcsError, match="tee log"):
        edited(tmp_path, "workload", {PATH: path})


def test_containers_cannot_lead_a_log_astray(tmp_path: Path) -> None:
    edited(tmp_path, "workload", {PATH: "dir/log"})
    root = SandboxRoot(os.fspath(tmp_path))
    logs = tmp_path / "logs"
    (logs / "out").symlink_to("/etc")
    (logs / "link").symlink_to("../precious")
    os.mkfifo(logs / "pipe")
    for path in ("out/x", "link", "pipe", "dir"):
        with pytest.raises(GcsError, match="tee log"):
            open_log(root, path)
    assert not (tmp_path / "precious").exists()


def test_without_annotations_nothing_is_made(tmp_path: Path) -> None:
    edit = edited(tmp_path, "workload", {})
    assert "mounts" not in edit.document
    assert os.listdir(tmp_path) == []
