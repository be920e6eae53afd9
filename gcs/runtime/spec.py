"""Edits of the OCI specification that the host sends (spec 4.2, 4.6)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from gcs.protocol.errors import GcsError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gcs.protocol.oci import Process, Specification

#: Annotation that tells a pod's sandbox, a pod's workload and a standalone container apart.
CONTAINER_TYPE: Final = "io.kubernetes.cri.container-type"
SANDBOX_ID: Final = "io.kubernetes.cri.sandbox-id"
#: Names that a container id and a host name may be made of (runc; the reference).
_NAME_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
)
_LONGEST_NAME: Final = 255
_LONGEST_SEARCH_LIST: Final = 6
_IPV6_HOSTS: Final = """\

# The following lines are desirable for IPv6 capable hosts
::1     ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


def check_container_id(container_id: str) -> None:
    """Check that an id can be a file name and is one that runc takes.

    Raises:
        InvalidArgumentError: It can't.
    """
    fits = 0 < len(container_id) <= _LONGEST_NAME and container_id not in (".", "..")
    if not fits or not _NAME_CHARACTERS.issuperset(container_id.replace("+", "")):
        shown = container_id if len(container_id) <= _LONGEST_NAME else container_id[:32] + "…"
        raise InvalidArgumentError(
            f"container id {shown!r} is not valid: 1 to {_LONGEST_NAME} letters, digits, "
            "'_', '+', '-' and '.'"
        )


def check_hostname(hostname: str) -> None:
    """Check a host name, which is to stand in /etc/hosts; it may be empty.

    Raises:
        GcsError: Other characters than letters, digits, ``_``, ``-`` and ``.``, or too long.
    """
    if len(hostname) > _LONGEST_NAME or not _NAME_CHARACTERS.issuperset(hostname):
        raise GcsError(
            f"hostname {hostname[:300]!r} is not valid: up to {_LONGEST_NAME} letters, digits, "
            "'_', '-' and '.'"
        )


def check_arguments(arguments: Iterable[str], what: str) -> None:
    """Check that strings can be handed to execve(2).

    Raises:
        InvalidArgumentError: One has a NUL byte.
    """
    for argument in arguments:
        if "\0" in argument:
            raise InvalidArgumentError(f"{what} has a NUL byte: {argument[:100]!r}")


def check_process(process: Process) -> None:
    """Check that a process of a container can be run; not all runtimes say what is wrong.

    Raises:
        InvalidArgumentError: A string has a NUL byte.
        GcsError: There is no program, or the working directory is not absolute.
    """
    check_arguments([*process.args, *process.env, process.cwd], "the process")
    if not process.args:
        raise GcsError("the process has no args: expected the program and its arguments")
    if not process.cwd.startswith("/"):
        raise GcsError(f"cwd {process.cwd[:300]!r} of the process must be an absolute path")


def hosts_file(hostname: str) -> str:
    """Return the content of /etc/hosts (spec 6.4)."""
    short, dot, _ = hostname.partition(".")
    names = f"{hostname} {short}" if dot else hostname
    return f"127.0.0.1 localhost\n127.0.0.1 {names}\n{_IPV6_HOSTS}"


def resolv_conf(searches: list[str], servers: list[str]) -> str:
    """Return the content of /etc/resolv.conf (spec 6.4).

    Raises:
        GcsError: More than 6 search domains.
    """
    if len(searches) > _LONGEST_SEARCH_LIST:
        raise GcsError(
            f"{len(searches)} DNS search domains, but resolv.conf holds {_LONGEST_SEARCH_LIST}"
        )
    search = f"search {' '.join(searches)}\n" if searches else ""
    return search + "".join(f"nameserver {server}\n" for server in servers)


def container_kind(view: Specification) -> str:
    """Return ``sandbox``, ``container`` (a pod's workload), or "" for a standalone container.

    Raises:
        GcsError: Another kind.
    """
    kind = view.annotations.get(CONTAINER_TYPE, "")
    if kind not in ("", "sandbox", "container"):
        raise GcsError(f"unsupported '{CONTAINER_TYPE}': '{kind}'")
    return kind


def add_network_files(
    document: dict[str, Any], view: Specification, directory: str, contents: dict[str, str]
) -> dict[str, bytes]:
    """Bind files of a directory into /etc, except where the host mounts something itself.

    Args:
        document: The specification; changed in place.
        view: The typed view of it.
        directory: Where the files are going to be.
        contents: Name → content.

    Returns:
        Those files that are used, to be written.
    """
    taken = {os.path.normpath(mount.destination) for mount in view.mounts if mount.destination}
    options = ["bind", "ro"] if view.root is not None and view.root.readonly else ["bind"]
    # A null entry is an empty mount to Go, and runc would refuse it with a riddle.
    mounts = [mount for mount in document.get("mounts", []) if mount]
    files = {}
    for name, content in contents.items():
        if f"/etc/{name}" not in taken:
            files[name] = content.encode()
            mounts.append(
                {
                    "destination": f"/etc/{name}",
                    "type": "bind",
                    "source": os.path.join(directory, name),
                    "options": options,
                }
            )
    document["mounts"] = mounts
    return files
