"""Graphics processors: a hook that lets NVIDIA's tool set up the container (spec 7.6)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from gcs.protocol.errors import GcsError
from gcs.runtime.pods.edit import items

if TYPE_CHECKING:
    from gcs.runtime.pods.edit import Edit

HOOK_PROGRAM: Final = "generichook"
_TOOL: Final = "nvidia-container-cli"
_LOG: Final = "nvidia-container.log"


def edit_gpus(edit: Edit) -> None:
    """Add the hook for the graphics processors assigned to the container, if there are any.

    Raises:
        GcsError: The VM's image has no generichook.
    """
    locations = edit.assigned.gpu_locations
    if not locations:
        return
    program = _find_program(edit.guest.path)
    log = os.path.join(edit.bundle, _LOG)
    capabilities = [f"--{name}" for name in edit.annotations.gpu_capabilities]
    devices = [f"--device={location}" for location in locations]
    arguments = [program, _TOOL, f"--debug={log}", "--no-pivot", "configure"]
    arguments += ["--ldconfig=@/sbin/ldconfig", *capabilities, *devices]
    arguments += ["--pid={{pid}}", edit.rootfs]
    # The agent's own environment is none of the tool's business (spec 11.3, no. 55).
    environment = [
        f"PATH={edit.guest.path}",
        "NVC_INSECURE_MODE=1",
        f"GENERIC_HOOK_LOG_DEBUG_FILE={log}",
    ]
    hook = {"path": program, "args": arguments, "env": environment}
    items(edit.document, "hooks", "createRuntime").append(hook)
    # Numbers of the nodes are not known before the driver runs.
    items(edit.document, "linux", "resources", "devices").append(
        {"allow": True, "type": "c", "access": "rwm"}
    )


def _find_program(path: str) -> str:
    for directory in path.split(":"):
        program = os.path.join(directory, HOOK_PROGRAM)
        if os.path.isabs(directory) and os.access(program, os.X_OK):
            return program
    raise GcsError(
        f"a graphics processor is assigned, but the image of the VM has no {HOOK_PROGRAM} in {path}"
    )
