"""Addresses by DHCP, from busybox's client (spec 6.3).  For the worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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
    program = shutil.which(_CLIENT)
    command = [program] if program else [_require_busybox(), _CLIENT]
    with tempfile.TemporaryDirectory(prefix="gcs-dhcp-") as directory:
        resolv_conf = os.path.join(directory, "resolv.conf")
        environment = dict(os.environ, **{RESOLV_CONF_VARIABLE: resolv_conf})
        command += ["-q", "-n", "-f", "-i", interface, "-s", script, "-t", "10", "-T", "2"]
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
        try:
            with open(resolv_conf) as file:
                return file.read()
        except FileNotFoundError:
            return ""


def _require_busybox() -> str:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise GcsError(
            f"the adapter has no addresses, and there is no {_CLIENT} in this image to ask a DHCP "
            "server: give it IPConfigs"
        )
    return busybox
