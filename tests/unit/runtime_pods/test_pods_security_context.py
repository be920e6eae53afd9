"""The security context directory (spec 9.6)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import InvalidJsonError
from gcs.runtime.pods.security_context import SecurityContext, edit_security_context
from tests.support.pods import LCOW, edit_of, guest

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE = {f"{LCOW}.amd-certificate": "Y2VydA=="}


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path / "rootfs"


def full() -> SecurityContext:
    context = SecurityContext()
    context.policy, context.reference, context.hash_envelope = "cG9s", "cmVm", "ZW52"
    context.tcb, context.platform = b"\x00tcb", b"\xffplatform"
    return context


def test_files_of_what_there_is(rootfs: Path) -> None:
    edit = edit_of(
        rootfs.parent,
        annotations=CERTIFICATE,
        vm=guest(security=full()),
        process={"args": ["true"], "env": ["A=1"]},
    )
    before = os.umask(0o027)
    edit_security_context(edit)
    os.umask(before)
    (directory,) = rootfs.iterdir()
    assert directory.name.startswith("security-context-")
    assert directory.stat().st_mode & 0o777 == 0o755
    assert {path.name: path.read_text() for path in directory.iterdir()} == {
        "security-policy-base64": "cG9s",
        "reference-info-base64": "cmVm",
        "transparent-reference-info-base64": "ZW52",
        "tcb-reference-info-base64": "AHRjYg==",
        "platform-reference-info-base64": "/3BsYXRmb3Jt",
        "host-amd-cert-base64": "Y2VydA==",
    }
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o750}
    variable = f"UVM_SECURITY_CONTEXT_DIR=/{directory.name}"
    assert edit.document["process"]["env"] == ["A=1", variable]


def test_only_what_there_is(rootfs: Path) -> None:
    edit = edit_of(rootfs.parent, "standalone", annotations=CERTIFICATE)
    edit_security_context(edit)
    (directory,) = rootfs.iterdir()
    assert [path.name for path in directory.iterdir()] == ["host-amd-cert-base64"]
    assert edit.document["process"]["env"] == [f"UVM_SECURITY_CONTEXT_DIR=/{directory.name}"]


def test_nothing_to_show(rootfs: Path) -> None:
    edit = edit_of(rootfs.parent)
    edit_security_context(edit)
    assert list(rootfs.iterdir()) == []
    assert "env" not in edit.document["process"]


def test_a_container_that_does_not_want_it(rootfs: Path) -> None:
    annotations = {**CERTIFICATE, f"{LCOW}.securitypolicy.env": "false"}
    edit = edit_of(rootfs.parent, annotations=annotations, vm=guest(security=full()))
    edit_security_context(edit)
    assert list(rootfs.iterdir()) == []


def test_a_creation_that_fails_later_leaves_nothing(rootfs: Path) -> None:
    with ExitStack() as undo:
        edit_security_context(edit_of(rootfs.parent, annotations=CERTIFICATE, undo=undo))
        assert len(list(rootfs.iterdir())) == 1
    assert list(rootfs.iterdir()) == []


def test_an_environment_that_is_none(rootfs: Path) -> None:
    edit = edit_of(rootfs.parent, annotations=CERTIFICATE)
    edit.document["process"]["env"] = {"A": "1"}
    with pytest.raises(InvalidJsonError, match=r"process\.env is not a list"):
        edit_security_context(edit)
    assert list(rootfs.iterdir()) == []
