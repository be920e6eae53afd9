"""The image for arm64: boots under QEMU's emulation and runs a container.

Not a part of `make test`, as it takes the packages of another architecture and a slow boot:
`make test-arm64` builds the image and runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "out/arm64"


@pytest.mark.timeout(600)
def test_a_container_on_an_emulated_arm64_machine(tmp_path: Path) -> None:
    assert (IMAGE / "vmlinux").is_file(), "no image: run `make ARCH=arm64 all` first"
    script = "uname -m; cat; cat /proc/1/comm >&2; exit 7"
    result = subprocess.run(
        [sys.executable, "-m", "uvm", "run", "-i", "--image-dir", IMAGE, "--", "sh", "-c", script],
        input=b"through the VM\n",
        capture_output=True,
        timeout=550,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        cwd=ROOT,
        check=False,
    )
    assert result.stdout == b"aarch64\nthrough the VM\n", result.stderr.decode()
    assert result.stderr.endswith(b"sh\n")
    assert result.returncode == 7
