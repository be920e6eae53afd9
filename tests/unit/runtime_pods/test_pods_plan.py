"""Kinds of containers, pods and their members, what a network is needed for (spec 4.2)."""

from __future__ import annotations

from typing import Any

import pytest

from gcs.protocol.errors import GcsError, InvalidArgumentError, SystemAlreadyExistsError
from gcs.protocol.oci import read_specification
from gcs.runtime.pods.kind import Kind
from gcs.runtime.pods.plan import ContainerPlan, NetworkNeeds, plan_container
from gcs.runtime.pods.pod import Pods
from tests.support.pods import (
    KINDS,
    LCOW,
    SANDBOX_ID,
    TYPE,
    VIRTUAL_POD,
    recorded_creates,
    specification,
)

NAMESPACE = "ABCDEF01-2222-3333-4444-555555555555"


def plan(
    pods: Pods,
    container_id: str,
    annotations: dict[str, str],
    bundle: str = "",
    **sections: Any,
) -> ContainerPlan:
    _, view = read_specification(specification(annotations=annotations, **sections))
    return plan_container(container_id, view, bundle or f"/run/gcs/c/{container_id}", pods)


def windows(namespace: str = NAMESPACE) -> dict[str, Any]:
    return {"network": {"networkNamespace": namespace}}


def test_recorded_pod() -> None:
    pods = Pods()
    plans = []
    for container_id, settings in recorded_creates():
        _, view = read_specification(settings["OciSpecification"])
        plans.append(plan_container(container_id, view, settings["OciBundlePath"], pods))
    sandbox, *workloads = plans
    pod = sandbox.identity.container_id
    assert sandbox.identity.kind is Kind.SANDBOX
    assert sandbox.root.path == f"/run/gcs/c/{pod}"
    assert sandbox.identity.cgroup == f"/pods/{pod}/{pod}"
    assert sandbox.network == NetworkNeeds(
        "79fb283e-c89a-411d-9555-34eb7bbe7307", create=False, required=True
    )
    assert len(workloads) == 2
    for workload in workloads:
        assert workload.identity.kind is Kind.WORKLOAD
        assert workload.pod is sandbox.pod
        assert workload.root == sandbox.root
        assert workload.network is None
        assert workload.identity.cgroup == f"/pods/{pod}/{workload.identity.container_id}"


def test_standalone_container() -> None:
    pods = Pods()
    made = plan(pods, "c1", {}, windows=windows())
    assert made.identity.kind is Kind.STANDALONE
    assert made.pod is None
    assert made.root.path == "/run/gcs/c/c1"
    assert made.identity.cgroup == "/pods/c1"
    assert made.network == NetworkNeeds(NAMESPACE.lower(), create=True, required=False)
    assert pods.find("c1") is None
    assert pods.leave(made.identity, made.pod) is None


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({TYPE: "pod"}, "unsupported 'io.kubernetes.cri.container-type': 'pod'"),
        ({TYPE: "container"}, "workload container c1 names no pod"),
        ({TYPE: "container", SANDBOX_ID: "p"}, "pod p does not exist for workload container c1"),
        ({TYPE: "container", VIRTUAL_POD: "v"}, "pod v does not exist for workload container c1"),
    ],
)
def test_what_cannot_be(annotations: dict[str, str], message: str) -> None:
    with pytest.raises(GcsError, match=message):
        plan(Pods(), "c1", annotations)


@pytest.mark.parametrize("virtual", ["../x", "/x", "a/b", "..", "a..b", "x y"])
def test_a_virtual_pod_id_is_no_path(virtual: str) -> None:
    with pytest.raises(InvalidArgumentError, match="virtual pod id"):
        plan(Pods(), "c1", {TYPE: "sandbox", VIRTUAL_POD: virtual})


def test_a_pod_has_one_sandbox() -> None:
    pods = Pods()
    plan(pods, "p", KINDS["sandbox"])
    with pytest.raises(GcsError, match="pod p already exists"):
        plan(pods, "p", KINDS["sandbox"])


def test_a_container_is_in_its_pod_once() -> None:
    pods = Pods()
    plan(pods, "pod1", KINDS["sandbox"])
    plan(pods, "c1", KINDS["workload"])
    with pytest.raises(SystemAlreadyExistsError, match="c1 is in pod pod1 already"):
        plan(pods, "c1", KINDS["workload"])


def test_an_annotation_that_cannot_be_read_enters_nothing() -> None:
    pods = Pods()
    with pytest.raises(GcsError, match="shm"):
        plan(pods, "p", {TYPE: "sandbox", "io.microsoft.lcow.shm.size-kb": "much"})
    assert pods.find("p") is None


def test_a_container_whose_id_is_the_virtual_pods_is_its_sandbox() -> None:
    pods = Pods()
    sandbox = plan(pods, "v", {TYPE: "container", SANDBOX_ID: "other", VIRTUAL_POD: "v"})
    assert sandbox.identity.kind is Kind.SANDBOX
    assert sandbox.identity.is_virtual_sandbox
    assert sandbox.root.path == "/run/gcs/c/virtual-pods/v"
    assert sandbox.network == NetworkNeeds("", create=False, required=True)
    workload = plan(pods, "w", {TYPE: "container", SANDBOX_ID: "other", VIRTUAL_POD: "v"})
    assert workload.identity.kind is Kind.WORKLOAD
    assert workload.root == sandbox.root
    assert workload.identity.cgroup == "/pods/v/w"


def test_a_virtual_pods_namespace_is_made() -> None:
    made = plan(Pods(), "v", {TYPE: "sandbox", VIRTUAL_POD: "v"}, windows=windows())
    assert made.network == NetworkNeeds(NAMESPACE.lower(), create=True, required=True)


def test_a_sandbox_can_do_without_a_namespace_when_told() -> None:
    skip = {TYPE: "sandbox", "io.microsoft.cri.skip-pod-networking": "True"}
    assert plan(Pods(), "p", skip).network == NetworkNeeds("", create=False, required=False)


def test_workloads_use_the_network_of_the_vm_when_their_sandbox_does() -> None:
    pods = Pods()
    assert plan(pods, "pod1", {TYPE: "sandbox", f"{LCOW}.hostnetwork": "1"}).host_network
    assert plan(pods, "c1", KINDS["workload"]).host_network
    other = plan(pods, "p2", KINDS["sandbox"])
    assert not other.host_network
    alone = {f"{LCOW}.hostnetwork": "true"}
    assert plan(pods, "s", alone).host_network
    in_pod = {TYPE: "container", SANDBOX_ID: "p2", **alone}
    assert not plan(pods, "c2", in_pod).host_network


def test_a_pod_is_finished_when_its_last_member_leaves() -> None:
    pods = Pods()
    sandbox = plan(pods, "pod1", KINDS["sandbox"])
    workload = plan(pods, "c1", KINDS["workload"])
    assert pods.leave(workload.identity, workload.pod) is None
    assert pods.leave(sandbox.identity, sandbox.pod) is sandbox.pod
    assert pods.find("pod1") is None


def test_a_pod_whose_sandbox_goes_first() -> None:
    pods = Pods()
    sandbox = plan(pods, "pod1", KINDS["sandbox"])
    workload = plan(pods, "c1", KINDS["workload"])
    assert pods.leave(sandbox.identity, sandbox.pod) is None
    with pytest.raises(GcsError, match="does not exist"):
        plan(pods, "c2", KINDS["workload"])
    finished = pods.leave(workload.identity, workload.pod)
    assert finished is not None
    assert finished.cgroup == "/pods/pod1"


def test_a_new_pod_with_the_same_id_keeps_its_control_group() -> None:
    pods = Pods()
    sandbox = plan(pods, "pod1", KINDS["sandbox"])
    workload = plan(pods, "c1", KINDS["workload"])
    pods.leave(sandbox.identity, sandbox.pod)
    again = plan(pods, "pod1", KINDS["sandbox"])
    assert pods.leave(workload.identity, workload.pod) is None
    assert pods.find("pod1") is again.pod
    assert pods.leave(again.identity, again.pod) is again.pod
