"""Where the root of a pod is (spec 4.3)."""

from __future__ import annotations

import logging

import pytest

from gcs.runtime.pods.sandbox_root import SandboxRoot, SandboxRoots

V1 = "/run/gcs/c"


def test_what_is_registered_is_resolved() -> None:
    roots = SandboxRoots()
    root = roots.register("s", f"{V1}/s")
    assert root.path == f"{V1}/s"
    assert roots.resolve("s") == root


def test_an_unknown_pod_is_where_old_hosts_put_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert SandboxRoots().resolve("missing").path == f"{V1}/missing"
    assert "missing" in caplog.text


def test_what_is_unregistered_is_unknown() -> None:
    roots = SandboxRoots()
    roots.register("s", "/some/path")
    roots.unregister("s")
    roots.unregister("s")
    assert roots.resolve("s").path == f"{V1}/s"


@pytest.mark.parametrize(
    ("bundle", "pod", "expected"),
    [
        (f"{V1}/container-abc", "vpod-123", f"{V1}/virtual-pods/vpod-123"),
        ("/new/layout/sandboxes/c", "vpod-456", "/new/layout/sandboxes/virtual-pods/vpod-456"),
    ],
)
def test_root_of_a_virtual_pod(bundle: str, pod: str, expected: str) -> None:
    assert SandboxRoots().register("s", bundle, pod).path == expected


@pytest.mark.parametrize(
    "path",
    [f"{V1}/abc", f"{V1}/virtual-pods/v", "/run/gcs/pods/pod1/abc"],
    ids=["first generation", "virtual pod", "second generation"],
)
def test_what_is_in_a_root(path: str) -> None:
    root = SandboxRoot(path)
    assert root.mounts == f"{path}/sandboxMounts"
    assert root.tmpfs_mounts == f"{path}/sandboxTmpfsMounts"
    assert root.hugepages == f"{path}/hugepages"
    assert root.logs == f"{path}/logs"
    for name in ("hostname", "hosts", "resolv.conf"):
        assert root.file(name) == f"{path}/{name}"


def test_pods_do_not_see_each_other() -> None:
    roots = SandboxRoots()
    one = roots.register("one", f"{V1}/one", "vpod-a")
    two = roots.register("two", f"{V1}/two", "vpod-b")
    assert one.path != two.path
    assert one.mounts != two.mounts
    assert roots.resolve("one") == one
    roots.unregister("one")
    assert roots.resolve("two") == two
    assert roots.resolve("one").path == f"{V1}/one"
