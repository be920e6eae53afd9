"""Where crun does not do what runc does with the same specification or resources.

Found with crun 1.8.1; none of it harms a later one.
"""

from __future__ import annotations

import os
from typing import Any, Final

import msgspec

from gcs.protocol.errors import GcsError, error_text
from gcs.runtime.bundle import CONFIG

_VERSION: Final = "1.0.2"
_PERIOD: Final = 100_000
#: What a rule about some devices, not all, has.
_DEVICE: Final = ("type", "major", "minor")


def adapt_bundle(bundle: str) -> None:
    """Change config.json of a bundle; blocking.

    Raises:
        GcsError: It can't be read or written.
    """
    path = os.path.join(bundle, CONFIG)
    try:
        with open(path, "rb") as file:
            document = msgspec.json.decode(file.read(), type=dict[str, Any])
        adapt_specification(document)
        with open(path, "wb") as file:
            file.write(msgspec.json.encode(document))
    except (OSError, msgspec.DecodeError) as error:
        reason = error_text(error) if isinstance(error, OSError) else str(error)
        raise GcsError(f"specification of the container for crun: {path}: {reason}") from error


def adapt_specification(document: dict[str, Any]) -> None:
    """Change a specification: its version, a quota of the processor, devices."""
    if "1.0" not in (document.get("ociVersion") or ""):
        document["ociVersion"] = _VERSION  # of others it knows nothing, and refuses them
    linux = _section(document, "linux")
    resources = _section(linux, "resources")
    cpu = resources.get("cpu") or {}
    if (cpu.get("quota") or 0) < 0:
        # It writes a huge number instead on cgroup v1. A new control group has no quota, anyway.
        del cpu["quota"]
    # It forbids no device that it is not told to forbid.
    rules = resources.get("devices") or []
    if not rules or any(rules[0].get(key) not in (None, "", "a") for key in _DEVICE):
        rules = [{"allow": False, "access": "rwm"}, *rules]
    resources["devices"] = rules


def adapt_resources(resources: dict[str, Any]) -> dict[str, Any]:
    """Return resources for `crun update`, which on cgroup v2 lifts a quota only with a period."""
    cpu = resources.get("cpu") or {}
    if (cpu.get("quota") or 0) < 0 and not cpu.get("period"):
        return {**resources, "cpu": {**cpu, "period": _PERIOD}}
    return resources


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(document.get(name), dict):
        document[name] = {}
    found: dict[str, Any] = document[name]
    return found
