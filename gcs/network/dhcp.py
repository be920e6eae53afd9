"""Addresses by DHCP, from busybox's client (spec 6.3).  For the worker."""

from __future__ import annotations

import os
import subprocess
from typing import Final

from gcs.protocol.errors import GcsError

_CLIENT: Final = "udhcpc"
_SHOWN: Final = 500
#: Tells our script where to write name servers and domains; another image's script may not know it.
RESOLV_CONF_VARIABLE: Final = "GCS_RESOLV_CONF"


def obtain_lease(interface: str, script: str, limit: float) -> str:
    """Have an interface of the calling thread's network namespace configured by a DHCP server.

    Args:
        interface: Its name; it has to be up.
        script: Called by the client to configure it.
        limit: Seconds until it is given up.

    Returns:
        Name servers and domains in the form of resolv.conf, "" without any.

    Raises:
        GcsError: No server has answered, or there is no client.
    """
    client = _find(_CLIENT)
    command = [client] if client else [_require_busybox(), _CLIENT]
    command += ["-q", "-n", "-f", "-i", interface, "-s", script, "-t", "10", "-T", "2"]
    # The script opens it by its name below /proc.
    descriptor = os.memfd_create("resolv.conf", os.MFD_CLOEXEC)
    with open(descriptor) as learned:
        name = f"/proc/{os.getpid()}/fd/{descriptor}"
        _run(command, dict(os.environ, **{RESOLV_CONF_VARIABLE: name}), interface, limit)
        return learned.read()


def _run(command: list[str], environment: dict[str, str], interface: str, limit: float) -> None:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GcsError(
            f"interface {interface}: no DHCP server has answered within {limit:g} s"
        ) from None
    except OSError as error:
        raise GcsError(f"interface {interface}: {command[0]}: {error.strerror}") from error
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()[-_SHOWN:]
        raise GcsError(f"interface {interface}: no DHCP server has answered: {said}")


def _require_busybox() -> str:
    busybox = _find("busybox")
    if busybox is None:
        raise GcsError(
            f"the adapter has no addresses, and there is no {_CLIENT} in this image to ask a DHCP "
            "server: give it IPConfigs"
        )
    return busybox


def _find(program: str) -> str | None:
    """Return the path of a program; the standard library's way is a heavy import."""
    for directory in os.environ.get("PATH", os.defpath).split(":"):
        path = os.path.join(directory, program)
        if os.access(path, os.X_OK):
            return path
    return None
