"""The edits of a specification: one list of steps for every kind of container.

Steps find sections that a host has left out missing, make those they need, and do nothing where a
container has nothing for them; so each works for a sandbox, a workload and a standalone container
(spec 11.3, no. 45 and 46).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from gcs.protocol.decode import convert
from gcs.protocol.errors import GcsError, InvalidJsonError, error_text
from gcs.protocol.oci import Specification
from gcs.runtime.pods.assigned_devices import find_assigned_devices
from gcs.runtime.pods.devices import edit_assigned_devices, edit_devices
from gcs.runtime.pods.edit import Edit, items, section
from gcs.runtime.pods.gpu import edit_gpus
from gcs.runtime.pods.limits import edit_core_limit, edit_shared_memory
from gcs.runtime.pods.logs import edit_logs
from gcs.runtime.pods.mount_sources import edit_block_devices, edit_mount_sources
from gcs.runtime.pods.network_files import edit_network_files
from gcs.runtime.pods.sandbox_directories import make_sandbox_directories
from gcs.runtime.pods.security_context import edit_security_context
from gcs.runtime.pods.users import edit_user
from gcs.storage.driver import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gcs.runtime.pods.edit import Guest
    from gcs.runtime.pods.network_files import Dns
    from gcs.runtime.pods.plan import ContainerPlan


class Step(NamedTuple):
    """One edit.

    Attributes:
        name: For messages.
        edit: Changes the document; may block; raises GcsError and OSError.
    """

    name: str
    edit: Callable[[Edit], None]


def _check_sections(edit: Edit) -> None:
    if not edit.rootfs or edit.view.linux is None or edit.view.process is None:
        raise InvalidJsonError("OciSpecification has no process or linux section, or no root.path")


def _edit_namespaces(edit: Edit) -> None:
    if edit.host_network:
        namespaces = items(edit.document, "linux", "namespaces")
        namespaces[:] = [entry for entry in namespaces if entry.get("type") != "network"]


def _edit_control_group(edit: Edit) -> None:
    section(edit.document, "linux")["cgroupsPath"] = edit.identity.cgroup


def _drop_windows(edit: Edit) -> None:
    edit.document.pop("windows", None)


STEPS: Final = (
    Step("sections", _check_sections),
    Step("sandbox directories", make_sandbox_directories),
    Step("network files", edit_network_files),
    Step("mount sources", edit_mount_sources),
    Step("block devices", edit_block_devices),
    Step("shared memory", edit_shared_memory),
    Step("devices", edit_devices),
    Step("assigned devices", edit_assigned_devices),
    Step("graphics processors", edit_gpus),
    Step("core limit", edit_core_limit),
    Step("user", edit_user),
    Step("logs", edit_logs),
    Step("security context", edit_security_context),
    Step("namespaces", _edit_namespaces),
    Step("control group", _edit_control_group),
    Step("windows section", _drop_windows),
)


async def edit_specification(
    plan: ContainerPlan,
    document: dict[str, Any],
    view: Specification,
    *,
    guest: Guest,
    dns: Dns,
    undo: ExitStack,
) -> Specification:
    """Make a specification ready for the runtime, and everything that it refers to.

    Args:
        plan: What the container is.
        document: Its specification; changed in place.
        view: The typed view of it.
        guest: The VM.
        dns: Of the container's network namespace.
        undo: Gets the removal of everything that is made, for when a later step of the creation
            fails; nothing is in it when this fails.

    Returns:
        The typed view of the edited document.

    Raises:
        GcsError: A step fails; nothing is left of it.
    """
    assigned = await find_assigned_devices(view, guest)
    with ExitStack() as made:
        edit = Edit(
            document,
            view,
            identity=plan.identity,
            annotations=plan.annotations,
            bundle=plan.bundle,
            root=plan.root,
            host_network=plan.host_network,
            guest=guest,
            dns=dns,
            assigned=assigned,
            undo=made,
        )
        await in_thread(run_steps, edit)
        edited = convert(document, Specification, "OciSpecification")
        undo.push(made.pop_all())
    return edited


def run_steps(edit: Edit) -> None:
    """Run all steps; blocking.

    Raises:
        GcsError: One fails; what was made so far is in the undo list.
    """
    for step in STEPS:
        try:
            step.edit(edit)
        except OSError as error:
            raise GcsError(
                f"container {edit.identity.container_id}: {step.name}: {error_text(error)}"
            ) from error
