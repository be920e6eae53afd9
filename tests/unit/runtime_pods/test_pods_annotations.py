"""Annotations and their values (spec 4.11)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.annotations import TABLE, Annotations, Limit, read_annotations

LCOW = "io.microsoft.virtualmachine.lcow"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("io.kubernetes.cri.sandbox-id", "pod", "sandbox_id", "pod"),
        ("io.microsoft.cri.virtual-pod-id", "v", "virtual_pod_id", "v"),
        ("io.microsoft.cri.skip-pod-networking", "TrUe", "skip_pod_networking", True),
        ("io.microsoft.cri.skip-pod-networking", "1", "skip_pod_networking", False),
        ("io.microsoft.lcow.rlimitcore", "1;18446744073709551615", "core_limit", (1, 2**64 - 1)),
        ("io.microsoft.lcow.rlimitcore", "", "core_limit", None),
        ("io.microsoft.lcow.shm.size-kb", "0064", "shm_size", 64),
        (f"{LCOW}.privileged", "T", "privileged", True),
        (f"{LCOW}.privileged", "f", "privileged", False),
        (f"{LCOW}.hostnetwork", "true", "host_network", True),
        ("io.microsoft.container.lcow.tee-log-path", "a/b", "tee_log_path", "a/b"),
        ("io.microsoft.container.lcow.tee-log-dir-mount", "/l", "tee_log_directory_mount", "/l"),
        (f"{LCOW}.securitypolicy.env", "0", "security_policy_environment", False),
        ("io.microsoft.container.gpu.capabilities", "a,b", "gpu_capabilities", ("a", "b")),
        (f"{LCOW}.amd-certificate", "pem", "amd_certificate", "pem"),
        ("io.microsoft.virtualmachine.wcow.amd-certificate", "pem", "amd_certificate", "pem"),
    ],
)
def test_each_annotation_has_its_effect(name: str, text: str, field: str, value: Any) -> None:
    read = read_annotations({name: text})
    assert getattr(read, field) == value
    others = {entry: getattr(read, entry) for entry in read.__struct_fields__ if entry != field}
    assert Annotations(**others, **{field: value}) == read
    assert read == Annotations(**{field: value})


def test_the_table_knows_each_annotation_once() -> None:
    names = [annotation.name for annotation in TABLE]
    assert len(names) == len(set(names)) == 13
    assert {annotation.field for annotation in TABLE} == set(Annotations.__struct_fields__)


def test_nothing_given_is_all_defaults() -> None:
    assert read_annotations({"unknown": "x"}) == Annotations()
    assert Annotations().security_policy_environment


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        (f"{LCOW}.privileged", "privileged", False),
        (f"{LCOW}.securitypolicy.env", "security_policy_environment", True),
    ],
)
@pytest.mark.parametrize("text", ["yes", "", "tRue", " true", "2"])
def test_a_boolean_that_is_none_is_the_default_and_a_warning(
    name: str, field: str, default: bool, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert getattr(read_annotations({name: text}), field) is default
    assert name in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("io.microsoft.lcow.rlimitcore", "1"),
        ("io.microsoft.lcow.rlimitcore", "1;2;3"),
        ("io.microsoft.lcow.rlimitcore", "-1;2"),
        ("io.microsoft.lcow.rlimitcore", "1; 2"),
        ("io.microsoft.lcow.rlimitcore", "1;18446744073709551616"),
        ("io.microsoft.lcow.shm.size-kb", "0"),
        ("io.microsoft.lcow.shm.size-kb", ""),
        ("io.microsoft.lcow.shm.size-kb", "1k"),
        ("io.microsoft.lcow.shm.size-kb", "1_0"),
        ("io.microsoft.lcow.shm.size-kb", "٣"),
    ],
)
def test_a_number_that_is_none_is_an_error_naming_the_annotation(name: str, text: str) -> None:
    with pytest.raises(GcsError, match=name):
        read_annotations({name: text})


def test_the_name_for_linux_wins() -> None:
    both = {
        "io.microsoft.virtualmachine.wcow.amd-certificate": "windows",
        f"{LCOW}.amd-certificate": "linux",
    }
    assert read_annotations(both).amd_certificate == "linux"


def test_limits_are_named() -> None:
    limit = read_annotations({"io.microsoft.lcow.rlimitcore": "5;7"}).core_limit
    assert limit == Limit(soft=5, hard=7)
