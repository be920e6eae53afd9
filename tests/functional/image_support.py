"""The build of the image, and what it has built, for tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "out"
PYTHON = "/usr/lib/gcs/bin/python3"
BUILD = "scripts/build_initrd.sh"


def run(
    *command: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, env=env
    )


def build(
    *steps: str,
    out: Path,
    work: Path,
    root: Path = REPOSITORY,
    before: tuple[str, ...] = (),
    **settings: str,
) -> subprocess.CompletedProcess[str]:
    """Run the build script with directories of its own, but with the packages at hand."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "cache").exists():
        (work / "cache").symlink_to(REPOSITORY / "build/cache")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "OUT": str(out),
        "BUILD": str(work),
        "SOURCE_DATE_EPOCH": "1700000000",
        **settings,
    }
    return run(*before, root / BUILD, *steps, env=environment)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a build wrote to stderr, but for warnings of an archive that went on."""
    lines = done.stderr.splitlines()
    return [line for line in lines if not line.startswith("build_initrd: warning: ")]


def unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    done = run("tar", "-xf", archive, "-C", folder)
    assert done.returncode == 0, done.stderr
    return folder


def chroot(
    root: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("chroot") or "chroot"
    return run(tool, root, *command, env=environment or {})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
