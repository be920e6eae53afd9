"""What e2fsck finds in an image."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What e2fsck remarks on any image of tar2ext4: the reference leaves the bits of the inode bitmap
#: clear that stand for inodes beyond the group's last. Nothing allocates inodes on a file system
#: that is read-only for good.
KNOWN = re.compile(r"Padding at end of inode bitmap is not set\.")
#: How e2fsck speaks of what it would do, and of how it goes on.
NOISE = re.compile(
    r"^(e2fsck \d|Pass \d|Fix\? no|Clear\? no|.*\d+/\d+ files|.*\*{5}|$|.*WARNING: Filesystem)"
)


def fsck(image: Path) -> list[str]:
    """Findings of e2fsck that are not explained."""
    result = subprocess.run(
        ["e2fsck", "-fn", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    lines = result.stdout.decode().splitlines()
    return [line for line in lines if not KNOWN.match(line) and not NOISE.match(line)]
