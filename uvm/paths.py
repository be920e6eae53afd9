"""Where the host tool keeps its files."""

import os
import tempfile
from pathlib import Path
from typing import Final

from uvm.errors import MissingFileError

#: Directory of the boot files, when it is neither given nor found.
IMAGE_DIR_VARIABLE: Final = "UVM_IMAGE_DIR"
_REPOSITORY: Final = Path(__file__).resolve().parent.parent


def cache_directory() -> Path:
    """Return the directory for things that can be made again, creating it."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "uvm"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def runtime_directory() -> Path:
    """Return the directory for sockets and locks of running VMs, creating it."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        path = Path(base) / "uvm"
    elif os.geteuid() == 0:
        path = Path("/run/uvm")
    else:
        path = Path(tempfile.gettempdir()) / f"uvm-{os.geteuid()}"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def image_directory(given: str | None = None) -> Path:
    """Return the directory of the boot files.

    The first that applies: the argument, the environment variable ``UVM_IMAGE_DIR``, ``out`` in
    the working directory, ``out`` in the repository.
    """
    chosen = given or os.environ.get(IMAGE_DIR_VARIABLE)
    if chosen:
        return Path(chosen)
    local = Path.cwd() / "out"
    return local if local.is_dir() else _REPOSITORY / "out"


def require_image_file(directory: Path, name: str) -> Path:
    """Return the path of a boot file.

    Raises:
        MissingFileError: It is not there; the text says how to make it.
    """
    path = directory / name
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: run `make all` to build the image")
    return path
