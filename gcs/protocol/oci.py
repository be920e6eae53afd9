"""The parts of an OCI runtime specification that the agent looks at (spec 2.5).

A specification travels through the agent as plain objects, so that nothing a newer host sends is
lost; these types check and read it.
"""

from typing import Any

import msgspec

from gcs.protocol.decode import canonical, convert
from gcs.protocol.errors import InvalidJsonError


class _Oci(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """An object of the specification: keys in camel case."""


class Root(_Oci):
    """The root file system of the container."""

    path: str = ""
    readonly: bool = False


class User(_Oci):
    """Who a process runs as."""

    uid: int = 0
    gid: int = 0
    additional_gids: list[int] = msgspec.field(default_factory=list)
    username: str = ""


class Process(_Oci):
    """A process of a container."""

    terminal: bool = False
    user: User = msgspec.field(default_factory=User)
    args: list[str] = msgspec.field(default_factory=list)
    env: list[str] = msgspec.field(default_factory=list)
    cwd: str = ""


class Mount(_Oci):
    """A mount inside the container."""

    destination: str = ""
    type: str = ""
    source: str = ""
    options: list[str] = msgspec.field(default_factory=list)


class Namespace(_Oci):
    """A namespace of the container: a new one, or with a path one that exists."""

    type: str = ""
    path: str = ""


class Linux(_Oci):
    """The Linux section."""

    namespaces: list[Namespace] = msgspec.field(default_factory=list)
    cgroups_path: str = ""
    resources: dict[str, Any] | None = None
    devices: list[dict[str, Any]] = msgspec.field(default_factory=list)


class Network(_Oci):
    """Network section for Windows, which names the namespace for Linux too."""

    network_namespace: str = ""


class WindowsDevice(_Oci):
    """A device assigned by the host."""

    id: str = ""
    id_type: str = ""


class Windows(_Oci):
    """What is left of the Windows section when it comes to a Linux guest (spec 2.5)."""

    network: Network | None = None
    devices: list[WindowsDevice] = msgspec.field(default_factory=list)


class Specification(_Oci):
    """An OCI runtime specification."""

    oci_version: str = ""
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    mounts: list[Mount] = msgspec.field(default_factory=list)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    linux: Linux | None = None
    windows: Windows | None = None


def read_specification(document: Any) -> tuple[dict[str, Any], Specification]:
    """Check a specification.

    Returns:
        The document with canonical keys, to be edited and handed to the runtime, and a typed view.

    Raises:
        InvalidJsonError: No object, a value of the wrong type, or a section is missing that a
            Linux container can't do without (``process``, ``root``, ``linux``).
    """
    what = "OciSpecification"
    if not isinstance(document, dict):
        raise InvalidJsonError(f"{what} is missing from the container's settings")
    view = convert(document, Specification, what)
    for section in ("process", "root", "linux"):
        if getattr(view, section) is None:
            raise InvalidJsonError(f"{what} has no {section} section")
    return canonical(document, Specification), view


def read_process(document: Any) -> tuple[dict[str, Any], Process]:
    """Check an OCI process; as :func:`read_specification`.

    Raises:
        InvalidJsonError: No object, or a value of the wrong type.
    """
    what = "OciProcess"
    if not isinstance(document, dict):
        raise InvalidJsonError(f"{what} is not an object")
    return canonical(document, Process), convert(document, Process, what)
