"""Edits and checks of specifications (spec 4.6, 6.4)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gcs.protocol.errors import GcsError, InvalidArgumentError, InvalidJsonError
from gcs.protocol.oci import read_specification
from gcs.runtime.spec import (
    check_container_id,
    check_hostname,
    container_kind,
    edit_standalone,
    hosts_file,
    resolv_conf,
)

BUNDLE = "/run/gcs/c/c1"


def edit(**sections: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    spec = {"process": {"args": ["true"]}, "root": {"path": "rootfs"}, "linux": {}, **sections}
    document, view = read_specification(spec)
    return document, edit_standalone(document, view, "c1", BUNDLE)


def test_standalone() -> None:
    document, files = edit(hostname="alone", windows={"network": {"networkNamespace": "x"}})
    assert set(files) == {"hostname", "hosts", "resolv.conf"}
    assert files["hostname"] == b"alone\n"
    assert files["resolv.conf"] == b""
    assert document["linux"]["cgroupsPath"] == "/pods/c1"
    assert "windows" not in document
    assert document["mounts"] == [
        {
            "destination": f"/etc/{name}",
            "type": "bind",
            "source": f"{BUNDLE}/{name}",
            "options": ["bind"],
        }
        for name in ("hostname", "hosts", "resolv.conf")
    ]


def test_read_only_root_makes_read_only_files() -> None:
    document, _ = edit(root={"path": "rootfs", "readonly": True})
    assert {tuple(mount["options"]) for mount in document["mounts"]} == {("bind", "ro")}


def test_mounts_of_the_host_stay() -> None:
    theirs = [
        {"destination": "/etc/hosts/", "type": "bind", "source": "/x"},
        {"destination": "/etc/resolv.conf", "type": "bind", "source": "/y"},
    ]
    document, files = edit(mounts=[*theirs, None])
    assert set(files) == {"hostname"}
    assert document["mounts"][:2] == theirs
    assert [mount["destination"] for mount in document["mounts"][2:]] == ["/etc/hostname"]


def test_without_a_name_it_is_the_name_of_the_machine() -> None:
    _, files = edit()
    assert files["hostname"].decode() == f"{os.uname().nodename}\n"


def test_what_the_agent_does_not_know_is_kept() -> None:
    document, _ = edit(linux={"futureThing": [1, {"A": None}]}, hooks={"x": 1})
    assert document["linux"]["futureThing"] == [1, {"A": None}]
    assert document["hooks"] == {"x": 1}


def test_keys_are_found_whatever_their_case() -> None:
    document, _ = edit(Hostname="upper", linux={"CgroupsPath": "/elsewhere"})
    assert document["hostname"] == "upper"
    assert document["linux"] == {"cgroupsPath": "/pods/c1"}


@pytest.mark.parametrize("root", [{}, {"path": ""}])
def test_root_without_a_path(root: dict[str, str]) -> None:
    with pytest.raises(InvalidJsonError, match=r"root\.path"):
        edit(root=root)


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
