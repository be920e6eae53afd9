"""Root file systems that are not ours, as archives, made of what is installed here."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGES = (
    *("base-files", "bash", "coreutils", "e2fsprogs", "kmod", "runc", "util-linux"),
    # and what they are linked against
    *("libacl1", "libattr1", "libblkid1", "libc6", "libcom-err2", "libext2fs2", "libgmp10"),
    *("libkmod2", "liblzma5", "libmount1", "libpcre2-8-0", "libseccomp2", "libselinux1"),
    *("libsmartcols1", "libss2", "libssl3", "libtinfo6", "libudev1", "libuuid1", "libzstd1"),
)
_LEFT_OUT = ("/usr/share/", "/usr/lib/x86_64-linux-gnu/gconv/")
_MUSL = "/lib/x86_64-linux-musl/libc.so"
_SPEAKER = """
#include <stdio.h>
int main(void) { puts("from musl"); return 0; }
"""


def distribution(target: Path) -> None:
    """Write a tar of a glibc distribution: files of this machine's packages, /bin a link."""
    listed = subprocess.run(
        ["dpkg", "-L", *_PACKAGES], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tops = [
        path
        for path in (
            *("/usr", "/usr/bin", "/usr/lib", "/usr/lib64", "/usr/sbin"),
            *("/bin", "/lib", "/lib64", "/sbin"),
        )
        if os.path.lexists(path)
    ]
    # bash is what /bin/sh of a small distribution may be.
    names = dict.fromkeys(
        path[1:]
        for path in (*tops, *listed)
        if path.startswith("/")
        and path != "/."
        and os.path.lexists(path)
        and not path.startswith(_LEFT_OUT)
    )
    command: list[str | Path] = [
        "tar",
        "-cf",
        target,
        "-C",
        "/",
        "--no-recursion",
        "--null",
        "-T",
        "-",
    ]
    subprocess.run(command, input="\0".join(names).encode(), check=True)
    folder = target.with_suffix(".more")
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/sh").symlink_to("bash")
    subprocess.run(["tar", "-rf", target, "-C", folder, "bin/sh"], check=True)


def busybox_and_musl(target: Path) -> None:
    """Write a tar with busybox, musl, a program that uses it, and runc with libraries aside."""
    root = target.with_suffix(".tree")
    for name in ("bin", "sbin", "lib", "usr/bin", "opt/runc"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    applets = subprocess.run(
        ["/bin/busybox", "--list-full"], capture_output=True, text=True, check=True
    ).stdout.split()
    for applet in applets:
        link = root / applet
        if link.parent.is_dir() and not link.exists() and applet != "sbin/init":
            link.symlink_to("/bin/busybox")
    shutil.copy(_MUSL, root / "lib/ld-musl-x86_64.so.1")
    subprocess.run(
        ["musl-gcc", "-x", "c", "-", "-o", root / "bin/speak"], input=_SPEAKER.encode(), check=True
    )
    _with_libraries(shutil.which("runc") or "/usr/sbin/runc", root / "usr/bin/runc", "/opt/runc")
    subprocess.run(["tar", "-cf", target, "-C", root, "."], check=True)


def _with_libraries(program: str, copy: Path, place: str) -> None:
    """Copy a program, and its libraries to a directory that nothing else looks into."""
    folder = copy.parents[2] / place[1:]
    shutil.copy(program, copy)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        words = [word for word in line.split() if word.startswith("/")]
        if words:
            shutil.copy(words[-1], folder)
    loader = next(folder.glob("ld-linux*"))
    command = ["patchelf", "--set-interpreter", f"{place}/{loader.name}", "--set-rpath", place]
    subprocess.run([*command, copy], check=True)
