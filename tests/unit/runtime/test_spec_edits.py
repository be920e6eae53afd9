"""Edits and checks of specifications (spec 4.6, 6.4)."""

from __future__ import annotations

import pytest

from gcs.protocol.errors import GcsError, InvalidArgumentError
from gcs.protocol.oci import read_specification
from gcs.runtime.spec import (
    check_container_id,
    check_hostname,
    container_kind,
    hosts_file,
    resolv_conf,
)


def test_hosts_file() -> None:
    assert hosts_file("box") == (
        "127.0.0.1 localhost\n"
        "127.0.0.1 box\n"
        "\n"
        "# The following lines are desirable for IPv6 capable hosts\n"
        "::1     ip6-localhost ip6-loopback\n"
        "fe00::0 ip6-localnet\n"
        "ff00::0 ip6-mcastprefix\n"
        "ff02::1 ip6-allnodes\n"
        "ff02::2 ip6-allrouters\n"
    )
    assert "\n127.0.0.1 box.example.org box\n" in hosts_file("box.example.org")


def test_resolv_conf() -> None:
    assert resolv_conf([], []) == ""
    assert resolv_conf(["a", "b"], ["1.1.1.1", "::1"]) == (
        "search a b\nnameserver 1.1.1.1\nnameserver ::1\n"
    )
    resolv_conf(["x"] * 6, [])
    with pytest.raises(GcsError, match="7 DNS search domains"):
        resolv_conf(["x"] * 7, [])


@pytest.mark.parametrize("name", ["", "a", "A-b_c.9", "x" * 255])
def test_hostnames(name: str) -> None:
    check_hostname(name)


@pytest.mark.parametrize("name", ["a b", "a\n", "é", "a/b", "a+b", "x" * 256])
def test_hostnames_that_are_none(name: str) -> None:
    with pytest.raises(GcsError, match="hostname"):
        check_hostname(name)


@pytest.mark.parametrize("name", ["a", "...", "-x", "a+b_c.d-9", "f" * 64, "x" * 255])
def test_container_ids(name: str) -> None:
    check_container_id(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a\0", "é", "x" * 256])
def test_container_ids_that_are_none(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="container id"):
        check_container_id(name)


@pytest.mark.parametrize(
    ("annotations", "kind"),
    [({}, ""), ({"type": "sandbox"}, "sandbox"), ({"type": "container"}, "container")],
)
def test_kinds(annotations: dict[str, str], kind: str) -> None:
    named = {f"io.kubernetes.cri.container-{key}": value for key, value in annotations.items()}
    spec = {"process": {}, "root": {}, "linux": {}, "annotations": named}
    assert container_kind(read_specification(spec)[1]) == kind
