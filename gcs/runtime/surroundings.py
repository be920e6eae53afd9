"""What containers stand in: pods, their control groups, network namespaces, and bundles."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gcs.linux.netns import open_of_process
from gcs.protocol.errors import GcsError, NotFoundError, error_text
from gcs.protocol.logs import TRACE
from gcs.protocol.scrub import specification_text
from gcs.protocol.trace import span
from gcs.runtime.bundle import CONFIG, Bundle
from gcs.runtime.namespaces import Attachment
from gcs.runtime.pods.exec_process import ProcessDefaults
from gcs.runtime.pods.kind import Kind
from gcs.runtime.pods.network_files import Dns, merge_dns, rewrite_resolv_conf
from gcs.runtime.pods.pipeline import edit_specification
from gcs.runtime.pods.plan import ContainerPlan, plan_container
from gcs.runtime.pods.pod import Pods
from gcs.runtime.pods.sandbox_directories import remove_pod_directory
from gcs.storage.driver import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gcs.cgroup.cgroup import Cgroup, CgroupManager
    from gcs.protocol.oci import Specification
    from gcs.protocol.trace import Span
    from gcs.runtime.children import Child
    from gcs.runtime.namespaces import Namespace, Namespaces
    from gcs.runtime.network import Network
    from gcs.runtime.pods.edit import Guest
    from gcs.runtime.pods.pod import Pod

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A container whose bundle is ready for the runtime.

    Attributes:
        plan: What it is.
        view: Its edited specification.
        defaults: What processes run in it later take over.
        cgroup: Its control group.
        namespace: Its network namespace; ``None`` without one, and for a workload.
    """

    plan: ContainerPlan
    view: Specification
    defaults: ProcessDefaults
    cgroup: Cgroup
    namespace: Namespace | None


class Surroundings:
    """Makes what a container needs before the runtime makes it, and removes what only it needed.

    Args:
        guest: The VM, for edits of specifications.
        cgroups: The control groups of the machine.
        namespaces: Network namespaces.
        network: Gives adapters to containers.
    """

    __slots__ = ("_cgroups", "_guest", "_namespaces", "_network", "_pods")

    def __init__(
        self, guest: Guest, cgroups: CgroupManager, namespaces: Namespaces, network: Network
    ) -> None:
        self._guest = guest
        self._cgroups = cgroups
        self._namespaces = namespaces
        self._network = network
        self._pods = Pods()

    @contextlib.asynccontextmanager
    async def prepare(
        self, container_id: str, document: dict[str, Any], view: Specification, bundle: str
    ) -> AsyncIterator[Prepared]:
        """Prepare a container; when the block fails, nothing of it is left (spec 4.2).

        Args:
            container_id: Checked and reserved.
            document: Its specification; changed in place.
            view: The typed view of it.
            bundle: Its directory, checked.

        Raises:
            NotFoundError: A sandbox's network namespace is not known.
            GcsError: Something can't be made.
        """
        plan = plan_container(container_id, view, bundle, self._pods)
        undo = contextlib.ExitStack()
        namespace = None
        try:
            if plan.pod is not None and plan.identity.kind is Kind.SANDBOX:
                resources = None if view.linux is None else view.linux.resources
                await in_thread(self._cgroups.group(plan.pod.cgroup).create, resources)
            namespace = self._enter_namespace(plan)
            dns = Dns() if namespace is None else merge_dns(namespace.dns_settings)
            with _setup_span(plan):
                view = await edit_specification(
                    plan, document, view, guest=self._guest, dns=dns, undo=undo
                )
            await _write_bundle(plan, document, undo)
            rootfs = os.path.join(bundle, "" if view.root is None else view.root.path)
            defaults = ProcessDefaults.of(document, rootfs)
            cgroup = self._cgroups.group(plan.identity.cgroup)
            yield Prepared(plan, view, defaults, cgroup, namespace)
        except BaseException as error:
            try:
                await in_thread(undo.close)
            finally:
                await self._leave(plan, namespace)
            if isinstance(error, OSError):
                raise GcsError(
                    f"cannot prepare container {container_id}: {error_text(error)}"
                ) from error
            raise

    async def release(self, prepared: Prepared) -> None:
        """Take a container that was deleted out of its pod and its network namespace.

        The last one takes along the pod's control group and its directory; what can't be removed
        is logged.
        """
        await self._leave(prepared.plan, prepared.namespace)

    async def connect(self, prepared: Prepared, init: Child) -> None:
        """Give the adapters of its network namespace to a container that was just made.

        Later ones come to it as they are added.

        Args:
            prepared: The container.
            init: Its first process.

        Raises:
            GcsError: An adapter can't be configured: all are back in the VM's namespace.
        """
        namespace, plan = prepared.namespace, prepared.plan
        if namespace is None:
            return
        container_id = plan.identity.container_id
        attachment = Attachment(
            container_id,
            # The VM's own is there even when the container is not any more.
            (lambda: open_of_process(os.getpid()))
            if plan.host_network
            else (lambda: _open_network_namespace(container_id, init)),
            lambda: rewrite_resolv_conf(plan, merge_dns(namespace.dns_settings)),
            in_place=plan.host_network,
        )
        async with namespace.lock:
            with span("namespace::AssignContainerPid", namespace=namespace.namespace_id):
                namespace.attachment = attachment
                try:
                    await self._network.connect(namespace, namespace.adapters)
                except BaseException:
                    namespace.attachment = None
                    raise

    async def _detach(self, namespace: Namespace) -> None:
        """Take a namespace from its container, which is gone, with its adapters where need be."""
        async with namespace.lock:
            attachment = namespace.attachment
            try:
                if attachment is not None and attachment.in_place:
                    await self._network.disconnect(namespace, namespace.adapters)
            except GcsError as error:
                logger.warning("network namespace %s: %s", namespace.namespace_id, error)
            finally:
                namespace.attachment = None
                for adapter in namespace.adapters:
                    adapter.forget_connection()
                self._namespaces.leave(namespace)

    async def close(self) -> None:
        """End what waits for work."""
        await self._network.close()

    def _enter_namespace(self, plan: ContainerPlan) -> Namespace | None:
        needs = plan.network
        if needs is None:
            return None
        if needs.create:
            namespace: Namespace | None = self._namespaces.make(needs.namespace_id)
        else:
            namespace = self._namespaces.find(needs.namespace_id)
        if namespace is not None:
            self._namespaces.enter(namespace, plan.identity.container_id)
        elif needs.required:
            raise NotFoundError(
                f"network namespace {needs.namespace_id[:100]!r} of pod "
                f"{plan.identity.sandbox_id} does not exist: its adapters are to be added first"
            )
        return namespace

    async def _leave(self, plan: ContainerPlan, namespace: Namespace | None) -> None:
        identity = plan.identity
        if namespace is not None:
            await self._detach(namespace)
        pod = self._pods.leave(identity, plan.pod)
        if pod is not None:
            await in_thread(_remove_pod, pod, self._cgroups.group(pod.cgroup))


async def _write_bundle(
    plan: ContainerPlan, document: dict[str, Any], undo: contextlib.ExitStack
) -> None:
    bundle = Bundle(plan.bundle)
    undo.callback(bundle.undo)
    content = msgspec.json.encode(document)
    await in_thread(bundle.write, {CONFIG: content + b"\n"})
    if logger.isEnabledFor(TRACE):
        fields = {"path": os.path.join(plan.bundle, CONFIG), "config": specification_text(content)}
        logger.log(TRACE, "wrote OCI spec to config.json", extra=fields)


def _setup_span(plan: ContainerPlan) -> Span:
    """Return the span of editing a specification, by the name operators know it (appendix C)."""
    identity = plan.identity
    return span(
        f"hcsv2::setup{identity.kind.name.title()}ContainerSpec",
        cid=identity.container_id,
        sandboxID=identity.sandbox_id or None,
    )


def _open_network_namespace(container_id: str, init: Child) -> int:
    # As long as it is not reaped, and that happens on this thread, its pid is nobody else's.
    if not init.collect():
        try:
            return open_of_process(init.pid)
        except OSError as error:
            reason = error.strerror
    else:
        reason = "its init has ended"
    raise GcsError(f"container {container_id} has no network namespace (any more): {reason}")


def _remove_pod(pod: Pod, cgroup: Cgroup) -> None:
    try:
        cgroup.delete(kill=True)
    except GcsError as error:
        logger.warning("pod %s: %s", pod.sandbox_id, error)
    remove_pod_directory(pod.bundle)
