"""The annotations a guest reads: one table, annotation → effect (spec 4.11)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from gcs.protocol.errors import GcsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

_LARGEST: Final = (1 << 64) - 1
#: What Go's ``strconv.ParseBool`` takes.
_TRUE: Final = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE: Final = frozenset(("0", "f", "F", "false", "False", "FALSE"))


class Limit(NamedTuple):
    """A resource limit, as setrlimit(2) has it."""

    soft: int
    hard: int


class Annotations(msgspec.Struct, frozen=True, kw_only=True):
    """Values of the annotations, each with its default.

    Attributes:
        virtual_pod_id: The virtual pod the container belongs to, or "".
        sandbox_id: The pod a workload belongs to, or "".
        skip_pod_networking: A sandbox's network namespace may be missing.
        core_limit: RLIMIT_CORE, in bytes.
        shm_size: Size of /dev/shm, in KiB.
        privileged: All devices of the VM.
        host_network: The network of the VM itself.
        tee_log_path: File below the logs directory that gets a copy of the output, or "".
        tee_log_directory_mount: Where the logs directory appears in the container, or "".
        security_policy_environment: Whether the container gets its security context directory.
        gpu_capabilities: For the NVIDIA tool.
        amd_certificate: Content for host-amd-cert-base64, or "".
    """

    virtual_pod_id: str = ""
    sandbox_id: str = ""
    skip_pod_networking: bool = False
    core_limit: Limit | None = None
    shm_size: int | None = None
    privileged: bool = False
    host_network: bool = False
    tee_log_path: str = ""
    tee_log_directory_mount: str = ""
    security_policy_environment: bool = True
    gpu_capabilities: tuple[str, ...] = ()
    amd_certificate: str = ""


class Annotation(NamedTuple):
    """One row of the table.

    Attributes:
        name: Key on the wire.
        field: The member of :class:`Annotations` that it sets.
        read: Text → value; raises ValueError saying what is expected.
        lenient: A value that can't be read is logged and leaves the default (booleans).
    """

    name: str
    field: str
    read: Callable[[str], Any]
    lenient: bool = False


def parse_boolean(text: str) -> bool:
    """Read a boolean as Go's ``strconv.ParseBool`` does.

    Raises:
        ValueError: Something else.
    """
    if text not in _TRUE and text not in _FALSE:
        raise ValueError("expected true or false")
    return text in _TRUE


def parse_unsigned(text: str) -> int:
    """Read a decimal number without a sign, of at most 64 bits.

    Raises:
        ValueError: Something else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) > _LARGEST:
        raise ValueError("expected a decimal number of at most 64 bits")
    return int(text)


def _text(text: str) -> str:
    return text


def _says_true(text: str) -> bool:
    return text.lower() == "true"


def _core_limit(text: str) -> Limit | None:
    if not text:
        return None
    soft, separator, hard = text.partition(";")
    if not separator:
        raise ValueError("expected <soft>;<hard> in bytes")
    return Limit(parse_unsigned(soft), parse_unsigned(hard))


def _shm_size(text: str) -> int:
    size = parse_unsigned(text)
    if not size:
        raise ValueError("expected a size in KiB above 0")
    return size


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


CORE_LIMIT: Final = "io.microsoft.lcow.rlimitcore"
SHM_SIZE: Final = "io.microsoft.lcow.shm.size-kb"
_VM: Final = "io.microsoft.virtualmachine.lcow"
_CONTAINER: Final = "io.microsoft.container"

#: ``io.kubernetes.cri.container-type`` is not here: it makes the kind (gcs.runtime.pods.kind).
TABLE: Final = (
    Annotation("io.kubernetes.cri.sandbox-id", "sandbox_id", _text),
    Annotation("io.microsoft.cri.virtual-pod-id", "virtual_pod_id", _text),
    Annotation("io.microsoft.cri.skip-pod-networking", "skip_pod_networking", _says_true),
    Annotation(CORE_LIMIT, "core_limit", _core_limit),
    Annotation(SHM_SIZE, "shm_size", _shm_size),
    Annotation(f"{_VM}.privileged", "privileged", parse_boolean, lenient=True),
    Annotation(f"{_VM}.hostnetwork", "host_network", parse_boolean, lenient=True),
    Annotation(f"{_CONTAINER}.lcow.tee-log-path", "tee_log_path", _text),
    Annotation(f"{_CONTAINER}.lcow.tee-log-dir-mount", "tee_log_directory_mount", _text),
    Annotation(
        f"{_VM}.securitypolicy.env", "security_policy_environment", parse_boolean, lenient=True
    ),
    Annotation(f"{_CONTAINER}.gpu.capabilities", "gpu_capabilities", _list),
    # Hosts set the first, the reference reads the second (spec 11.3, no. 54): the first one wins.
    Annotation(f"{_VM}.amd-certificate", "amd_certificate", _text),
    Annotation("io.microsoft.virtualmachine.wcow.amd-certificate", "amd_certificate", _text),
)


def read_annotations(annotations: Mapping[str, str]) -> Annotations:
    """Read the annotations of a container.

    A boolean that can't be read keeps its default, with a warning in the log.

    Raises:
        GcsError: Another value that can't be read.
    """
    values: dict[str, Any] = {}
    for name, field, read, lenient in TABLE:
        text = annotations.get(name)
        if text is None or field in values:
            continue
        try:
            values[field] = read(text)
        except ValueError as error:
            message = f"annotation {name} is {text[:100]!r}: {error}"
            if not lenient:
                raise GcsError(message) from None
            logger.warning("%s; using the default", message)
    return Annotations(**values)
