"""The container runtime of the tests: runc, or what GCS_TEST_RUNTIME names (`make test-crun`)."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import Final

RUNTIME: Final = os.environ.get("GCS_TEST_RUNTIME", "runc")
#: For agents that are started as processes.
AGENT_ARGUMENTS: Final = () if RUNTIME == "runc" else ("-runtime", RUNTIME)

_UNIFIED = "/sys/fs/cgroup/unified"
_WITHOUT_UNIFIED = f"""#!/bin/sh
exec unshare --mount sh -c 'umount {_UNIFIED} && exec "$0" "$@"' PROGRAM "$@"
"""


def _is_hybrid() -> bool:
    """Whether this machine has controllers of both versions of control groups.

    No VM of ours has, but many a machine that tests run on.
    """
    try:
        with open(f"{_UNIFIED}/cgroup.controllers") as file:
            return bool(file.read().strip())
    except FileNotFoundError:
        return False


def prepare_crun() -> None:
    """Let the crun in PATH work on this machine: it refuses to where groups are hybrid."""
    program = shutil.which("crun")
    assert program, "crun is not installed: run `make setup`"
    if not _is_hybrid() or os.path.dirname(program).startswith(tempfile.gettempdir()):
        return
    folder = tempfile.mkdtemp(prefix="crun-")
    atexit.register(shutil.rmtree, folder)
    with open(f"{folder}/crun", "w") as file:
        file.write(_WITHOUT_UNIFIED.replace("PROGRAM", program))
    os.chmod(f"{folder}/crun", 0o755)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


if RUNTIME == "crun":
    prepare_crun()
