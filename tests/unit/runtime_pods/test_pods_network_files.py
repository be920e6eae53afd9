"""Host name, hosts and name resolution of pods and containers (spec 4.4, 4.6, 6.4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.network_files import Dns, edit_network_files, merge_dns
from tests.support.pods import edit_of

if TYPE_CHECKING:
    from pathlib import Path

FILES = ["hostname", "hosts", "resolv.conf"]
CLUSTER = ("azure-dns.com", "service.svc.cluster.local", "svc.cluster.local", "cluster.local")


def test_dns_of_several_adapters() -> None:
    adapters = [("", "")]
    assert merge_dns(adapters) == Dns()
    adapters.append(("", "1.1.1.1"))
    assert merge_dns(adapters) == Dns((), ("1.1.1.1",))
    adapters.append(("azure-dns.com", ""))
    assert merge_dns(adapters) == Dns(("azure-dns.com",), ("1.1.1.1",))
    suffixes = "Azure-DNS.com,service.svc.cluster.local,svc.cluster.local,cluster.local"
    adapters.append((suffixes, "10.11.12.13, 1.1.1.1, 8.8.8.8"))
    assert merge_dns(adapters) == Dns(CLUSTER, ("1.1.1.1", "10.11.12.13", "8.8.8.8"))
    adapters.append(("", ""))
    adapters.append(("", "FC00::A"))
    assert merge_dns(adapters) == Dns(CLUSTER, ("1.1.1.1", "10.11.12.13", "8.8.8.8", "fc00::a"))


def test_a_sandbox_writes_files_and_mounts_none(tmp_path: Path) -> None:
    edit = edit_of(
        tmp_path, "sandbox", hostname="pod-host.example.com", dns=Dns(("a", "b"), ("1.1.1.1",))
    )
    edit_network_files(edit)
    assert (tmp_path / "hostname").read_text() == "pod-host.example.com\n"
    hosts = (tmp_path / "hosts").read_text().splitlines()
    assert hosts[:3] == ["127.0.0.1 localhost", "127.0.0.1 pod-host.example.com pod-host", ""]
    assert (tmp_path / "resolv.conf").read_text() == "search a b\nnameserver 1.1.1.1\n"
    assert edit.document.get("mounts", []) == []


def test_a_workload_gets_the_files_of_its_pod(tmp_path: Path) -> None:
    theirs = {"destination": "/etc/hosts", "type": "bind", "source": "/x"}
    edit = edit_of(tmp_path, mounts=[theirs], root={"path": "rootfs", "readonly": True})
    edit_network_files(edit)
    assert edit.document["mounts"] == [
        theirs,
        *(
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": f"{tmp_path}/{name}",
                "options": ["bind", "ro"],
            }
            for name in ("hostname", "resolv.conf")
        ),
    ]
    assert os.listdir(tmp_path) == []


def test_a_standalone_container_has_both(tmp_path: Path) -> None:
    edit = edit_of(tmp_path, "standalone")
    edit_network_files(edit)
    assert (tmp_path / "hostname").read_text() == "the-vm\n"
    assert [mount["source"] for mount in edit.document["mounts"]] == [
        f"{tmp_path}/{name}" for name in FILES
    ]


def test_files_can_be_read_by_all_users_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        edit_network_files(edit_of(tmp_path, "sandbox"))
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in FILES} == {0o644}


def test_undoing_removes_the_files(tmp_path: Path) -> None:
    edit = edit_of(tmp_path, "sandbox")
    edit_network_files(edit)
    edit.undo.close()
    assert os.listdir(tmp_path) == []


def test_a_workload_has_no_host_name(tmp_path: Path) -> None:
    with pytest.raises(GcsError, match="workload container must not change hostname: mine"):
        edit_network_files(edit_of(tmp_path, hostname="mine"))


@pytest.mark.parametrize("kind", ["sandbox", "standalone"])
def test_a_bad_host_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(GcsError, match="hostname"):
        edit_network_files(edit_of(tmp_path, kind, hostname="a\n127.0.0.1 evil"))


def test_too_many_search_domains(tmp_path: Path) -> None:
    dns = Dns(tuple("abcdefg"))
    with pytest.raises(GcsError, match="7 DNS search domains"):
        edit_network_files(edit_of(tmp_path, "sandbox", dns=dns))
    assert os.listdir(tmp_path) == []


def test_search_domains_do_not_matter_to_who_has_a_resolv_conf(tmp_path: Path) -> None:
    mount = {"destination": "/etc/resolv.conf", "type": "bind", "source": "/x"}
    edit_network_files(edit_of(tmp_path, "standalone", mounts=[mount], dns=Dns(tuple("abcdefg"))))
    assert sorted(os.listdir(tmp_path)) == ["hostname", "hosts"]
